import { cString, pointerOf } from "../../ffi/layout.ts";
import { C, check, libc } from "../../ffi/libc.ts";
import { errorText, VerbsealError } from "../errors.ts";
import { exists } from "../exists.ts";
import type { Identity } from "./trust.ts";

/** Mode of what everybody may read. */
export const publicMode = 0o644;
/** Mode of what nobody but the owner may read. */
const secretMode = 0o600;

/** A file to be written. */
export interface PemFile {
  readonly path: string;
  readonly text: string;
  readonly mode: number;
  /** Whom it is to belong to, where that is not this user. */
  readonly owner?: { readonly uid: number; readonly gid: number };
}

/** The two files of a certificate: `NAME.pem` and `NAME.key`. */
export function identityFiles(
  directory: string,
  name: string,
  { certificate, key }: Identity,
): PemFile[] {
  return [
    { path: `${directory}/${name}.pem`, text: certificate, mode: publicMode },
    { path: `${directory}/${name}.key`, text: key, mode: secretMode },
  ];
}

/**
 * Such a file in the place of one that there is: for the same owner, with the same mode.
 *
 * @param real no symbolic link: what it leads to may not be what was read
 */
export async function replacement(real: string, text: string): Promise<PemFile> {
  const { mode, uid, gid } = await Deno.lstat(real);
  return {
    path: real,
    text,
    mode: (mode ?? secretMode) & 0o777,
    ...(uid === null || gid === null ? {} : { owner: { uid, gid } }),
  };
}

/**
 * Writes files below a folder, which is made if it is missing. Every file appears whole under its
 * name or not at all, and no key is readable by others at any moment.
 *
 * @param options.overwrite replace files of these names
 * @returns the paths of the files
 * @throws VerbsealError when a file exists and may not be replaced, or cannot be written
 */
export async function writeFiles(
  directory: string,
  files: readonly PemFile[],
  options: { overwrite: boolean },
): Promise<string[]> {
  const paths = files.map(({ path }) => path);
  const staged = new Map<string, string>();
  try {
    await Deno.mkdir(directory, { recursive: true });
    if (!options.overwrite) await refuseExisting(paths);
    for (const file of files) {
      const temporary = `${file.path}.${crypto.randomUUID()}`;
      staged.set(temporary, file.path);
      writeNew(temporary, file);
    }
    for (const [temporary, path] of staged) {
      // A link, unlike a rename, fails where somebody else was faster.
      if (options.overwrite) await Deno.rename(temporary, path);
      else await Deno.link(temporary, path);
    }
    return paths;
  } catch (error) {
    if (error instanceof VerbsealError) throw error;
    throw new VerbsealError(
      "certificates_not_written",
      `Certificates cannot be written to ${directory}: ${errorText(error)}`,
      "Let this user write there, or choose another folder with --directory",
      { cause: error },
    );
  } finally {
    await Promise.allSettled([...staged.keys()].map((temporary) => Deno.remove(temporary)));
  }
}

async function refuseExisting(paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    if (await exists(path)) {
      throw new VerbsealError(
        "certificates_exist",
        `${path} exists already`,
        "Choose another folder with --directory, or replace what is there with --force",
      );
    }
  }
}

/**
 * All by the descriptor: whoever may write to the folder can put something else under the name, and
 * its owner and mode would be what changes.
 */
function writeNew(path: string, { text, mode, owner }: PemFile): void {
  const { openat, fchown, fchmod, fsync, close } = libc();
  const flags = C.O_WRONLY | C.O_CREAT | C.O_EXCL | C.O_CLOEXEC;
  const file = check("openat", openat(C.AT_FDCWD, cString(path), flags, mode));
  try {
    if (owner !== undefined) {
      check("fchown", fchown(file, owner.uid, owner.gid));
      // The mask for new files may have taken from it what a group needs.
      check("fchmod", fchmod(file, mode));
    }
    writeAll(file, new TextEncoder().encode(text));
    check("fsync", fsync(file));
  } finally {
    close(file);
  }
}

function writeAll(file: number, bytes: Uint8Array<ArrayBuffer>): void {
  for (let at = 0; at < bytes.length;) {
    const rest = bytes.subarray(at);
    at += check("pwrite", libc().pwrite(file, pointerOf(rest), BigInt(rest.length), BigInt(at)));
  }
}
