/** Dials localhost:$PORT, believing $AUTHORITY or else the system, and prints what came of it. */
import { VerbsealError } from "../../lib/errors.ts";
import { dial } from "../../lib/tls/deno.ts";

const authority = Deno.env.get("AUTHORITY") ?? "";
try {
  const connection = await dial({
    hostname: "127.0.0.1",
    port: Number(Deno.env.get("PORT")),
    trust: { authorities: authority === "" ? [] : [authority] },
    handshakeSeconds: 5,
  });
  console.log("connected");
  await connection.close();
} catch (error) {
  console.log(error instanceof VerbsealError ? error.code : error);
}
