import * as v from "valibot";
import { libc } from "../../ffi/libc.ts";
import { errorText, VerbsealError } from "../errors.ts";
import { exists } from "../exists.ts";
import { type ChainHead, chainHead, MAC_BYTES } from "./audit_chain.ts";
import { AUDIT_MODE } from "./audit_file.ts";

/** Where an audit log, its key and its head are. */
export interface AuditPaths {
  readonly file: string;
  readonly key: string;
  readonly head: string;
}

/** Names beside the file, where no others were given. */
export function auditPaths(file: string, key?: string, head?: string): AuditPaths {
  return { file, key: key ?? `${file}.key`, head: head ?? `${file}.head` };
}

/**
 * Reads a key.
 *
 * @throws VerbsealError `audit_key` when it is none, or readable by others than owner and group
 */
export async function readAuditKey(path: string): Promise<Uint8Array> {
  return (await readKeyFile(path)).key;
}

async function readKeyFile(path: string): Promise<{ key: Uint8Array; uid: number | null }> {
  const { key, mode, uid } = await reading(path, "audit_key", async () => {
    using file = await Deno.open(path);
    const { mode, uid } = await file.stat();
    return { key: await new Response(file.readable).bytes(), mode, uid };
  });
  if (mode !== null && (mode & 0o027) !== 0) {
    throw new VerbsealError(
      "audit_key",
      `others can read or change the audit key ${path}`,
      `chmod 600 ${path}, and if they may have read it, begin a new chain with a new key`,
    );
  }
  if (key.length === MAC_BYTES) return { key, uid };
  throw new VerbsealError(
    "audit_key",
    `the audit key ${path} has ${key.length} bytes instead of ${MAC_BYTES}`,
    "Name the file that the server made, or another path for it to make a new one",
  );
}

/**
 * Reads a key, or makes one where there is none.
 *
 * @throws VerbsealError `audit_key` as {@linkcode readAuditKey}, and when another user than root has
 * put it there, who knows it
 */
export async function ensureAuditKey(path: string): Promise<Uint8Array> {
  if (!await exists(path)) {
    const key = crypto.getRandomValues(new Uint8Array(MAC_BYTES));
    // A link, unlike a rename, fails where somebody else was faster: then that one's key is read.
    const writing = writeWhole(path, key, async (temporary) => {
      await Deno.link(temporary, path).catch((error) => {
        if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
      });
      await Deno.remove(temporary);
    });
    await writing.catch((error) => {
      throw new VerbsealError(
        "audit_key",
        `the audit key ${path} cannot be made: ${errorText(error)}`,
        "name a path for it with --audit-key that the server may write to",
        { cause: error },
      );
    });
  }
  const { key, uid } = await readKeyFile(path);
  if (uid === null || uid === 0 || uid === libc().geteuid()) return key;
  throw new VerbsealError(
    "audit_key",
    `the audit key ${path} is another user's, who knows it`,
    "Name another path for the server to make one, or, if that user is to be trusted, chown it",
  );
}

/** A head within a line of the server's log, with `--log-format text`. */
const textHead = /(?:^| )chain=([\w-]+) sequence=(\d+) mac=(\w+)\s*$/;

/**
 * The head that a text has: what the server keeps, or a line `audit head` of its log.
 *
 * @returns undefined where there is none
 */
export function auditHeadIn(text: string): ChainHead | undefined {
  const [, chain, sequence, mac] = textHead.exec(text) ?? [];
  const parsed = mac === undefined
    ? v.safeParse(v.pipe(v.string(), v.parseJson(), chainHead), text)
    : v.safeParse(chainHead, { chain, sequence: Number(sequence), mac });
  return parsed.success ? parsed.output : undefined;
}

/**
 * Reads a head from a file.
 *
 * @throws VerbsealError `audit_head`
 */
export async function readAuditHead(path: string): Promise<ChainHead> {
  const head = auditHeadIn(await reading(path, "audit_head", () => Deno.readTextFile(path)));
  if (head) return head;
  throw new VerbsealError(
    "audit_head",
    `${path} is no head of an audit log: it wants chain, sequence and mac`,
    "Name the file that the server's --audit-head names, or give a line `audit head` of its log",
  );
}

/** Replaces the head as a whole: whoever reads it sees this one or the one before. */
export async function writeAuditHead(path: string, head: ChainHead): Promise<void> {
  const bytes = new TextEncoder().encode(JSON.stringify(head) + "\n");
  await writeWhole(path, bytes, (temporary) => Deno.rename(temporary, path));
}

/** Writes a file that is on disk before it gets its name; until then it has one that nobody has planted. */
async function writeWhole(
  path: string,
  bytes: Uint8Array,
  place: (temporary: string) => Promise<void>,
): Promise<void> {
  const temporary = `${path}.${crypto.randomUUID()}`;
  try {
    {
      using file = await Deno.open(temporary, { write: true, createNew: true, mode: AUDIT_MODE });
      for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
      await file.syncData();
    }
    await place(temporary);
  } catch (error) {
    await Deno.remove(temporary).catch(() => {});
    throw error;
  }
}

async function reading<T>(path: string, code: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    throw new VerbsealError(code, `${path} cannot be read: ${errorText(error)}`, "", {
      cause: error,
    });
  }
}
