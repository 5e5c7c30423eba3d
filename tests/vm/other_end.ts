/**
 * Where an attacker on the wire is: on a device at the other end of it, which tests that import this
 * have. Import it before what opens a device: the port goes down while the end moves.
 */
import { provider } from "../provider.ts";
import { NetworkNamespace } from "./namespace.ts";

let otherEnd: NetworkNamespace | undefined;

if (provider.name === "verbs") {
  Deno.test.beforeAll(async () => {
    otherEnd = await NetworkNamespace.create();
    await otherEnd.impersonate(provider.address);
  });
  Deno.test.afterAll(async () => await otherEnd?.[Symbol.asyncDispose]());
}

/** Runs `work` there, as {@linkcode NetworkNamespace.within} does; the embedded provider's wire ends here. */
export function atOtherEnd<T>(work: () => T): T {
  return otherEnd ? otherEnd.within(work) : work();
}
