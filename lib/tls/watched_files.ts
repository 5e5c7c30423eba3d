import { dirname } from "node:path";
import { errorText } from "../errors.ts";
import { logger } from "../telemetry/log.ts";

const log = logger("tls");

/** How long nothing may change before it is looked at, in milliseconds: files come in groups. */
const quietMilliseconds = 200;

/**
 * How often the files are looked at anyway, in milliseconds: nothing is told of links in other
 * folders and of network file systems, and some folders never rest.
 */
const lookMilliseconds = 2000;

/**
 * Tells when files have changed, be it that they were written, replaced, or that a symbolic link on
 * the way was: so do tools that renew certificates, and orchestrators that mount them.
 */
export class WatchedFiles implements Disposable {
  readonly #paths: readonly string[];
  readonly #changed: () => void;
  #watcher: Deno.FsWatcher | undefined;
  #timer: number | undefined;
  readonly #looking: number;
  #state: string;

  /** @param changed is called in its own time after the files' last change */
  constructor(paths: readonly string[], changed: () => void) {
    this.#paths = paths;
    this.#changed = changed;
    this.#state = this.#look();
    this.#watch();
    this.#looking = setInterval(() => this.#compare(), lookMilliseconds);
  }

  async #watch(): Promise<void> {
    try {
      // The folders, as a file that is replaced is another.
      const folders = new Set(this.#paths.map((path) => dirname(path)));
      const watcher = this.#watcher = Deno.watchFs([...folders], { recursive: false });
      for await (const _event of watcher) {
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => this.#compare(), quietMilliseconds);
      }
    } catch (error) {
      log.warning("files are not watched, so that changes are noticed late", {
        reason: errorText(error),
      });
    }
  }

  #compare(): void {
    const state = this.#look();
    if (state === this.#state) return;
    this.#state = state;
    this.#changed();
  }

  /** What tells a file from the one that was there before. */
  #look(): string {
    return this.#paths.map((path) => {
      try {
        const { dev, ino, mtime, size } = Deno.statSync(path);
        return [dev, ino, mtime?.getTime(), size].join(" ");
      } catch {
        return "";
      }
    }).join("\n");
  }

  [Symbol.dispose](): void {
    clearInterval(this.#looking);
    clearTimeout(this.#timer);
    this.#watcher?.close();
  }
}
