import { assert, assertRejects } from "@std/assert";
import { ClientExchange } from "../../lib/control/exchange.ts";
import { TlsError } from "../../lib/errors.ts";
import { ControlConnection } from "../../lib/session/control_connection.ts";
import { establish } from "../../lib/session/establish.ts";
import { tlsPair } from "./tls_pair.ts";

for (const lost of ["SECRET", "HELLO"]) {
  Deno.test(`a SECRET is wiped also when its connection is lost as ${lost} is sent`, async () => {
    await using pair = await tlsPair();
    const connection = new ControlConnection(pair.near);
    connection.sendFrame = ({ name }) =>
      name === lost ? Promise.reject(new TlsError("connection_lost", "lost")) : Promise.resolve();
    const offers = { transports: ["ktls" as const], services: ["messages" as const] };
    const exchange = new ClientExchange({ offers, agent: "test" });
    const steps = exchange.start();
    const frames = steps.map((step) => step.do === "send" ? step.frame : undefined);
    const secret = frames.find((frame) => frame?.name === "SECRET")!;
    assert(secret.body.some((byte) => byte !== 0));
    exchange.start = () => steps;
    const options = { exchange, connection, replacementSeconds: 1 };
    await assertRejects(() => establish(options), TlsError, "lost");
    assert(secret.body.every((byte) => byte === 0));
    connection.abort();
    await connection.ended;
  });
}
