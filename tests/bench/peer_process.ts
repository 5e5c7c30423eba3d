/**
 * `peer_process.ts OPTIONS`: the other end of Verbseal's half of a WRITE benchmark. Each way goes a
 * line of JSON to connect; then come orders until the input ends: a number of rounds for each
 * ping-pong, or `memory`, which is answered with the bytes that this process occupies.
 */
import process from "node:process";
import { linesOf, MEMORY } from "./peer.ts";
import { residentBytes } from "./resident_bytes.ts";
import { WriteEnd } from "./write_end.ts";

async function serve(end: WriteEnd): Promise<void> {
  const nextLine = linesOf(process.stdin);
  console.log(JSON.stringify(end.description));
  end.connect(JSON.parse(await nextLine() ?? "null"));
  console.log("ready");
  for (let order; (order = await nextLine()) !== undefined;) {
    if (order === MEMORY) console.log(residentBytes());
    else end.pingPong(Number(order), true);
  }
}

{
  using end = new WriteEnd(JSON.parse(Deno.args[0]!));
  await serve(end);
}
// The thread's wait on its epoll descriptor may outlast the end.
Deno.exit();
