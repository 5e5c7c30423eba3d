import { encodeBase64Url } from "@std/encoding/base64url";
import { basename, dirname } from "node:path";
import { IntegrityError, RefusedError } from "../errors.ts";
import { FileHash } from "./file_hash.ts";
import { TOKEN_BYTES } from "./file_protocol.ts";
import { Directory, type NewFile, type RegularFile } from "./file_system.ts";

/** Told of progress: bytes that are safe with the receiver, of bytes in all. */
export type Progress = (bytes: number, size: number) => void;

/** What a client knows of a transfer however often what carries it ends: it goes on from there. */
abstract class UnfinishedTransfer implements Disposable {
  hash = new FileHash();
  #resumed = false;
  #begunAgain = false;

  constructor(
    readonly local: string,
    readonly remote: string,
    readonly progress: Progress = () => {},
  ) {}

  /** An attempt goes on where an earlier one has ended. */
  resumed(): void {
    this.#resumed = true;
  }

  /**
   * Whether the transfer failed because the file is not the one any more that it began with. Then it
   * is as if nothing had been moved; once, or files that change for ever would be moved for ever.
   */
  beginsAgain(error: unknown): boolean {
    const changed = (error instanceof IntegrityError && error.code === "sha256") ||
      (error instanceof RefusedError && error.code === "file_changed");
    if (!changed || !this.#resumed || this.#begunAgain) return false;
    this.#begunAgain = true;
    this.hash = new FileHash();
    this.reset();
    return true;
  }

  protected abstract reset(): void;

  abstract [Symbol.dispose](): void;
}

/** A put. The local file stays open, so that all of it comes from one file. */
export class Upload extends UnfinishedTransfer {
  readonly file: RegularFile;
  /** By which the server knows what it has of the file. */
  token = newToken();

  /** @throws FileError when the local file cannot be read */
  constructor(local: string, remote: string, progress?: Progress) {
    super(local, remote, progress);
    using directory = new Directory(dirname(local), { confined: false });
    this.file = directory.openFile(basename(local));
  }

  protected reset(): void {
    this.token = newToken();
  }

  [Symbol.dispose](): void {
    this.file[Symbol.dispose]();
  }
}

/** A get. The local file stays under its temporary name until it is whole. */
export class Download extends UnfinishedTransfer {
  target: NewFile;

  /** @throws FileError when the local file cannot be written */
  constructor(remote: string, local: string, progress?: Progress) {
    super(local, remote, progress);
    this.target = this.#create();
  }

  protected reset(): void {
    this.target[Symbol.dispose]();
    this.target = this.#create();
  }

  [Symbol.dispose](): void {
    this.target[Symbol.dispose]();
  }

  #create(): NewFile {
    using directory = new Directory(dirname(this.local), { confined: false });
    return directory.createFile(basename(this.local));
  }
}

function newToken(): string {
  return encodeBase64Url(crypto.getRandomValues(new Uint8Array(TOKEN_BYTES)));
}
