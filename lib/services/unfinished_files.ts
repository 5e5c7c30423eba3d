import type { UnfinishedLimits } from "../session/limits.ts";
import type { FileHash } from "./file_hash.ts";
import type { NewFile } from "./file_system.ts";

/** Whose file it is, and by what it is known. */
export interface UnfinishedName {
  readonly identity: string;
  /** In whose quota it is: those without an identity are told apart by their addresses. */
  readonly owner: string;
  /** Chosen by the client, at random: who knows it has begun the file. */
  readonly token: string;
  /** Directory and path that the file is for: neither changes when it is gone on with. */
  readonly place: string;
}

/** The beginning of a file, all of it written and hashed. */
export interface UnfinishedFile {
  readonly file: NewFile;
  readonly hash: FileHash;
  /** Bytes of the whole file. */
  readonly size: number;
  /** Name of the session that has brought it, or the last of it. */
  readonly session?: string | undefined;
}

interface Kept {
  readonly name: UnfinishedName;
  readonly unfinished: UnfinishedFile;
  readonly timer: ReturnType<typeof setTimeout>;
}

/** A put that works on a file; the next one of that name has to wait until it has given up. */
interface Active {
  readonly giveUp: () => void;
  readonly ended: Promise<void>;
}

/** A name that is taken by one put. */
export interface Claim {
  /** What an earlier one has left. */
  readonly unfinished: UnfinishedFile | undefined;
  /** Ends the claim; a file that is left here is kept for a while. */
  release(unfinished?: UnfinishedFile): void;
}

/**
 * Files that a put has not finished because what carried it has ended. They wait for a while, for
 * the same client to bring the rest.
 */
export class UnfinishedFiles implements Disposable {
  /** In the order of their times. */
  readonly #kept = new Map<string, Kept>();
  readonly #active = new Map<string, Active>();

  constructor(private readonly limits: UnfinishedLimits) {}

  /**
   * Takes a name, and what there is of that file. A put that is still under way with it belongs to a
   * session whose end has not been noticed yet.
   *
   * @param giveUp is called when another put wants the name
   */
  async claim(name: UnfinishedName, giveUp: () => void): Promise<Claim> {
    const key = keyOf(name);
    const former = this.#active.get(key);
    const { promise: ended, resolve } = Promise.withResolvers<void>();
    const active = { giveUp, ended };
    this.#active.set(key, active);
    former?.giveUp();
    await former?.ended;
    const kept = this.#kept.get(key);
    if (kept) this.#forget(key, kept);
    return {
      unfinished: kept?.unfinished,
      release: (unfinished) => {
        if (unfinished) this.#keep(key, name, unfinished);
        if (this.#active.get(key) === active) this.#active.delete(key);
        resolve();
      },
    };
  }

  [Symbol.dispose](): void {
    for (const [key, kept] of this.#kept) this.#drop(key, kept);
  }

  #keep(key: string, name: UnfinishedName, unfinished: UnfinishedFile): void {
    const { unfinishedSeconds, unfinishedFiles, unfinishedFilesPerIdentity } = this.limits;
    const own = [...this.#kept].filter(([, each]) => each.name.owner === name.owner);
    if (own.length >= unfinishedFilesPerIdentity) this.#drop(...own[0]!);
    else if (this.#kept.size >= unfinishedFiles) this.#drop(...[...this.#kept][0]!);
    const timer = setTimeout(() => this.#drop(key, kept), unfinishedSeconds * 1000);
    const kept = { name, unfinished, timer };
    this.#kept.set(key, kept);
  }

  #drop(key: string, kept: Kept): void {
    this.#forget(key, kept);
    kept.unfinished.file[Symbol.dispose]();
  }

  #forget(key: string, { timer }: Kept): void {
    clearTimeout(timer);
    this.#kept.delete(key);
  }
}

function keyOf({ identity, token, place }: UnfinishedName): string {
  return JSON.stringify([identity, token, place]);
}
