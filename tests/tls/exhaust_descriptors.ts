/** Run with few file descriptors: listens, lets clients use them up, and sees that it recovers. */
import { delay } from "@std/async/delay";
import { configureLogging } from "../../lib/telemetry/log.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import { type Backend, listen } from "../../lib/tls/backend.ts";

configureLogging({ level: "warning", format: "text" });
const { server } = await createCertificates({ hosts: ["localhost"], days: 1 });
const hostname = "127.0.0.1";
const backend = Deno.env.get("BACKEND") as Backend;
const listener = listen({ hostname, port: 0, identity: server }, { backend });
const { port } = listener.address;

const clients: Deno.Conn[] = [];
const exhausted = (async () => {
  for (;;) {
    try {
      clients.push(await Deno.connect({ hostname, port }));
    } catch {
      return;
    }
  }
})();

const accepted: { abort(): void }[] = [];
let anotherAccepted = () => {};
const accepting = (async () => {
  for await (const incoming of listener) {
    accepted.push(incoming);
    anotherAccepted();
  }
})();

await exhausted;
// Meanwhile the listener tries some times more.
await delay(300);
console.log(`${clients.length} clients used up the descriptors`);
// Clients that were connected and not accepted are in the backlog still.
for (const connection of [...accepted.splice(0), ...clients.splice(0)]) {
  if ("abort" in connection) connection.abort();
  else connection.close();
}
const recovered = new Promise<void>((resolve) => anotherAccepted = resolve);
const late = await Deno.connect({ hostname, port });
await recovered;
console.log("accepted again");
late.close();
for (const connection of accepted) connection.abort();
listener.close();
await accepting;
