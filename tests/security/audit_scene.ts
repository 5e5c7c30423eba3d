/** An audit log in a folder of its own. */
import { join } from "node:path";
import type { AuditEntry } from "../../lib/security/audit.ts";
import { AuditFile } from "../../lib/security/audit_file.ts";
import { auditPaths, readAuditHead, readAuditKey } from "../../lib/security/audit_key_and_head.ts";
import { AuditLog } from "../../lib/security/audit_log.ts";
import { type AuditReport, verifyAudit } from "../../lib/security/audit_verify.ts";

export class AuditScene implements AsyncDisposable {
  private constructor(readonly folder: string) {}

  static async create(): Promise<AuditScene> {
    return new AuditScene(await Deno.makeTempDir({ prefix: "verbseal-" }));
  }

  get paths() {
    return auditPaths(join(this.folder, "audit.jsonl"));
  }

  /** What a server does from its start to its end. */
  async record(...entries: AuditEntry[]): Promise<void> {
    await using log = await AuditLog.open(this.paths);
    for (const entry of entries) log.record(entry);
  }

  /** So many lines, the first of which begins the chain. */
  async lines(count: number): Promise<string[]> {
    const entries = Array.from({ length: count - 1 }, (_, index) => ({
      event: "refused" as const,
      peer: `10.0.0.${index}:4433`,
      reason: "policy",
    }));
    await this.record(...entries);
    return await this.read();
  }

  async read(file = this.paths.file): Promise<string[]> {
    return (await Deno.readTextFile(file)).trimEnd().split("\n");
  }

  async write(lines: readonly string[]): Promise<void> {
    await Deno.writeTextFile(this.paths.file, lines.map((line) => `${line}\n`).join(""));
  }

  /** @param files by default the one under the log's name */
  async verify(options: { head?: boolean; files?: string[] } = {}): Promise<AuditReport> {
    const { file, key, head } = this.paths;
    return await verifyAudit(
      options.files ?? [file],
      await readAuditKey(key),
      options.head === false ? undefined : await readAuditHead(head),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.folder, { recursive: true });
  }
}

/** Opens audit files whose writes and syncs fail while the test says so. */
export class FailingDisk {
  failing: "write" | "sync" | undefined;
  /** Bytes that a write takes at most. */
  room = Infinity;
  /** Writes wait for it. */
  stalled: Promise<void> = Promise.resolve();
  /** Begun since the file was opened. */
  writes = 0;

  readonly open = (path: string): Promise<AuditFile> =>
    AuditFile.open(path, async (name, options) => {
      const file = await Deno.open(name, options);
      return {
        write: async (bytes) => {
          this.writes += 1;
          await this.stalled;
          if (this.failing === "write") throw new Error("No space left on device");
          return await file.write(bytes.subarray(0, this.room));
        },
        syncData: () =>
          this.failing === "sync" ? Promise.reject(new Error("I/O error")) : file.syncData(),
        stat: () => file.stat(),
        truncate: (length) => file.truncate(length),
        tryLock: (exclusive) => file.tryLock(exclusive),
        close: () => file.close(),
      };
    });
}
