import { VerbsealError } from "../errors.ts";

/** Exit code of a program that a second signal ended: 128 and the number of SIGINT, as shells count. */
const interrupted = 130;

/**
 * Aborts when the user or the system asks the program to stop (SIGINT, SIGTERM), so that it can
 * end in order; asked again, the program ends at once. Dispose it to let signals end the program again.
 */
export function stopSignal(): Disposable & { readonly signal: AbortSignal } {
  const controller = new AbortController();
  const stop = () => {
    if (controller.signal.aborted) Deno.exit(interrupted);
    controller.abort(new VerbsealError("interrupted", "interrupted"));
  };
  const signals = ["SIGINT", "SIGTERM"] as const;
  for (const name of signals) Deno.addSignalListener(name, stop);
  return {
    signal: controller.signal,
    [Symbol.dispose]() {
      for (const name of signals) Deno.removeSignalListener(name, stop);
    },
  };
}
