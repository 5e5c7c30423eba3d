/** Dials localhost:$PORT, believing $AUTHORITY or else the system, and by $BACKEND, and prints what came of it. */
import { VerbsealError } from "../../lib/errors.ts";
import { type Backend, dial } from "../../lib/tls/backend.ts";

const authority = Deno.env.get("AUTHORITY") ?? "";
try {
  const connection = await dial({
    hostname: "127.0.0.1",
    port: Number(Deno.env.get("PORT")),
    trust: { authorities: authority === "" ? [] : [authority] },
    handshakeSeconds: 5,
  }, { backend: Deno.env.get("BACKEND") as Backend });
  console.log("connected");
  await connection.close();
} catch (error) {
  console.log(error instanceof VerbsealError ? error.code : error);
}
