import { format } from "@std/fmt/bytes";
import { SingleBar } from "cli-progress";
import { printable } from "../telemetry/printable.ts";
import type { Output } from "./output.ts";

/** Shows how far a transfer has come; disposing of it ends the line. */
export interface Progress extends Disposable {
  /** @param bytes how many are through in all */
  update(bytes: number): void;
}

/**
 * A bar with bytes, rate and time left on standard error: shown when that is a terminal and the
 * output is for people.
 *
 * @param name what is being transferred
 * @param bytes how many there are in all
 */
export function showProgress(output: Output, name: string, bytes: number): Progress {
  const shown = !output.json && Deno.stderr.isTerminal();
  return shown ? new ProgressBar(name, bytes) : { update() {}, [Symbol.dispose]() {} };
}

class ProgressBar implements Progress {
  readonly #start = performance.now();
  readonly #bar = new SingleBar({
    format: "{name} [{bar}] {percentage}% {value} of {total}, {rate}/s, {eta_formatted} left",
    formatValue: (value, _options, type) =>
      type === "value" || type === "total" ? inBytes(value) : String(value),
    barsize: 20,
    // Its handlers of SIGINT would keep the program from ending.
    gracefulExit: false,
  });

  constructor(name: string, bytes: number) {
    this.#bar.start(bytes, 0, { name: printable(name), rate: inBytes(0) });
  }

  update(bytes: number): void {
    const seconds = Math.max(performance.now() - this.#start, 1) / 1000;
    this.#bar.update(bytes, { rate: inBytes(Math.round(bytes / seconds)) });
  }

  [Symbol.dispose](): void {
    this.#bar.stop();
  }
}

function inBytes(count: number): string {
  return format(count, { binary: true });
}
