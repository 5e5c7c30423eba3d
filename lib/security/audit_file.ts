import { dirname } from "node:path";
import { errorText, VerbsealError } from "../errors.ts";

/** Mode of all that belongs to an audit log. */
export const AUDIT_MODE = 0o600;

/** What is used of an open file. */
type OpenFile = Pick<
  Deno.FsFile,
  "write" | "syncData" | "stat" | "truncate" | "tryLock" | "close"
>;

/** The file that audit lines are appended to, by this process alone. */
export class AuditFile {
  #broken = false;

  private constructor(
    private readonly path: string,
    private readonly file: OpenFile,
    private readonly dev: number,
    private readonly ino: number | null,
    private bytes: number,
  ) {}

  /**
   * Opens the file under this name, or makes it.
   *
   * @param open as Deno.open
   * @throws VerbsealError `audit_in_use` when another server writes to it, `audit_unwritable`
   */
  static async open(
    path: string,
    open: (path: string, options: Deno.OpenOptions) => Promise<OpenFile> = Deno.open,
  ): Promise<AuditFile> {
    try {
      const file = await open(path, { append: true, create: true, mode: AUDIT_MODE });
      try {
        if (!await file.tryLock(true)) throw inUse(path);
        await syncFolder(dirname(path));
        const { dev, ino, size } = await file.stat();
        return new AuditFile(path, file, dev, ino, size);
      } catch (error) {
        file.close();
        throw error;
      }
    } catch (error) {
      if (error instanceof VerbsealError) throw error;
      throw new VerbsealError(
        "audit_unwritable",
        `the audit log ${path} cannot be opened: ${errorText(error)}`,
        "Let this user write there, or name another file",
        { cause: error },
      );
    }
  }

  /** Bytes that it has. */
  get size(): number {
    return this.bytes;
  }

  /** A sync failed, after which nobody can say what is on disk. */
  get broken(): boolean {
    return this.#broken;
  }

  /**
   * What has become of the file under its name: `moved` when another one is there, or none, `changed`
   * when it has not the bytes that were written; that is said once.
   */
  async look(): Promise<"same" | "moved" | "changed"> {
    try {
      const { dev, ino, size } = await Deno.stat(this.path);
      if (dev !== this.dev || ino !== this.ino) return "moved";
      if (size === this.bytes) return "same";
      this.bytes = size;
      return "changed";
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return "moved";
      throw error;
    }
  }

  /** Takes bytes off its end. */
  async cutOff(count: number): Promise<void> {
    if (count === 0) return;
    await this.file.truncate(this.bytes - count);
    this.bytes -= count;
  }

  /** @returns how many of the bytes it took */
  async write(bytes: Uint8Array): Promise<number> {
    const count = await this.file.write(bytes);
    this.bytes += count;
    return count;
  }

  /** Resolves when all is on disk. */
  async sync(): Promise<void> {
    try {
      await this.file.syncData();
    } catch (error) {
      this.#broken = true;
      throw error;
    }
  }

  close(): void {
    this.file.close();
  }
}

/** Without it a file that was just made could be gone after a power failure. */
async function syncFolder(path: string): Promise<void> {
  using folder = await Deno.open(path);
  await folder.sync().catch(() => {}); // some file systems cannot
}

function inUse(path: string): VerbsealError {
  return new VerbsealError(
    "audit_in_use",
    `another server writes to the audit log ${path}`,
    "Name a file of its own for each server",
  );
}
