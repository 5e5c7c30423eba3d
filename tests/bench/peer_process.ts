/**
 * `peer_process.ts SIZE DEPTH`: the other end of Verbseal's half of a WRITE benchmark. Each way goes
 * a line of JSON to connect; then a number of rounds comes in for each ping-pong, until the input
 * ends.
 */
import process from "node:process";
import { linesOf } from "./peer.ts";
import { WriteEnd } from "./write_end.ts";

const [size, depth] = Deno.args.map(Number);
const nextLine = linesOf(process.stdin);
using end = new WriteEnd(size!, depth!);
console.log(JSON.stringify(end.description));
end.connect(JSON.parse(await nextLine() ?? "null"));
console.log("ready");
for (let rounds; (rounds = await nextLine()) !== undefined;) end.pingPong(Number(rounds), true);
