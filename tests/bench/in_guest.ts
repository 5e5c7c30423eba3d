/** `in_guest.ts NAME…`: runs benches in the guest; prints each figure as a line of JSON. */
import { benches } from "./registry.ts";

for (const bench of benches.filter(({ name }) => Deno.args.includes(name))) {
  for await (const figure of bench.run()) console.log(JSON.stringify(figure));
}
// The thread's wait on its epoll descriptor may outlast the benches.
Deno.exit();
