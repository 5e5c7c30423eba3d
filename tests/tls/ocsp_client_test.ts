import { assert, assertEquals, assertRejects } from "@std/assert";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { libcryptoOcsp } from "../../ffi/libcrypto_ocsp.ts";
import { TlsError } from "../../lib/errors.ts";
import { OcspClient } from "../../lib/tls/ocsp_client.ts";
import { askResponder } from "../../lib/tls/ocsp_request.ts";
import { clockAhead } from "./clock.ts";
import { OcspAuthority, serials } from "./ocsp_authority.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libcrypto();
libcryptoOcsp();

const minute = 60_000;

/** An HTTP server in a responder's place, on a free port. */
function inPlaceOfResponder(handler: Deno.ServeHandler<Deno.NetAddr>) {
  const options = { hostname: "127.0.0.1", port: 0, onListen() {} };
  const server = Deno.serve(options, handler);
  return {
    url: `http://127.0.0.1:${server.addr.port}/`,
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

Deno.test("a responder is asked what a certificate's status is, whatever it is", async () => {
  await using authority = await OcspAuthority.create();
  await using responder = await authority.serve();
  using client = new OcspClient();
  for (const status of ["good", "revoked", "unknown"] as const) {
    const leaf = await authority.issue(serials[status], { url: responder.url });
    assertEquals((await client.status(leaf.der, authority.der)).status, status);
  }
});

Deno.test("an answer is asked for once, by however many at once and thereafter", async () => {
  await using authority = await OcspAuthority.create();
  await using responder = await authority.serve();
  const leaf = await authority.issue(serials.good, { url: responder.url });
  using client = new OcspClient();
  const ask = () => client.status(leaf.der, authority.der);
  const [first, ...others] = await Promise.all(Array.from({ length: 20 }, ask));
  assert(others.every((answer) => answer === first));
  using _clock = clockAhead(4 * minute);
  assertEquals(await ask(), first!);
  assertEquals(await responder.stop(), 1);
});

Deno.test("an answer is asked for again when it ends, and after an hour", async () => {
  await using authority = await OcspAuthority.create();
  await using brief = await authority.serve({ minutes: 3 });
  await using lasting = await authority.serve({ minutes: 600 });
  using client = new OcspClient();
  for (const [responder, keptFor] of [[brief, 3], [lasting, 60]] as const) {
    const { der } = await authority.issue(serials.good, { url: responder.url });
    const first = await client.status(der, authority.der);
    using clock = clockAhead((keptFor - 1) * minute);
    assertEquals(await client.status(der, authority.der), first);
    clock.milliseconds = (keptFor + 1) * minute;
    await client.status(der, authority.der);
    assertEquals(await responder.stop(), 2);
  }
});

Deno.test("an answer on a certificate that is unknown is soon asked for again", async () => {
  await using authority = await OcspAuthority.create();
  await using responder = await authority.serve();
  const { der } = await authority.issue(serials.unknown, { url: responder.url });
  using client = new OcspClient();
  await client.status(der, authority.der);
  await client.status(der, authority.der);
  using _clock = clockAhead(6_000);
  await client.status(der, authority.der);
  assertEquals(await responder.stop(), 2);
});

Deno.test("a failure is remembered for some seconds, and no longer", async () => {
  await using authority = await OcspAuthority.create();
  let requests = 0;
  await using server = inPlaceOfResponder(() => {
    requests++;
    return new Response("no", { status: 503 });
  });
  const { der } = await authority.issue(serials.good, { url: server.url });
  using client = new OcspClient();
  const ask = () => assertRejects(() => client.status(der, authority.der), TlsError);
  assertEquals((await ask()).code, "ocsp_http_status");
  await ask();
  assertEquals(requests, 1);
  using _clock = clockAhead(6_000);
  await ask();
  assertEquals(requests, 2);
});

Deno.test("who waits no longer does not end the question for others", async () => {
  await using authority = await OcspAuthority.create();
  await using responder = await authority.serve();
  const { der } = await authority.issue(serials.good, { url: responder.url });
  using client = new OcspClient();
  const impatient = new AbortController();
  const first = client.status(der, authority.der, { signal: impatient.signal });
  const second = client.status(der, authority.der);
  impatient.abort(new Error("too late"));
  await assertRejects(() => first, Error, "too late");
  assertEquals((await second).status, "good");
  assertEquals(await responder.stop(), 1);
});

/** Why there is no answer from a responder that behaves like this. */
async function refusal(handler: Deno.ServeHandler<Deno.NetAddr>): Promise<string> {
  await using authority = await OcspAuthority.create();
  await using server = inPlaceOfResponder(handler);
  const { der } = await authority.issue(serials.good, { url: server.url });
  const error = await assertRejects(() => askResponder(der, authority.der), TlsError);
  assert(error.remedy !== "");
  return error.code;
}

Deno.test("a responder that answers nonsense, too much, or that others shall be asked, is not believed", async () => {
  assertEquals(await refusal(() => new Response("hello")), "ocsp_malformed");
  assertEquals(await refusal(() => new Response(new Uint8Array(65_537))), "ocsp_too_large");
  assertEquals(await refusal(() => new Response(endless())), "ocsp_too_large");
  let followed = false;
  await using elsewhere = inPlaceOfResponder(() => {
    followed = true;
    return new Response();
  });
  assertEquals(await refusal(() => Response.redirect(elsewhere.url)), "ocsp_http_status");
  assertEquals(followed, false);
});

function endless(): ReadableStream<Uint8Array> {
  return new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(10_000)) });
}

Deno.test("a responder that hangs, in its answer or before, is given up", async () => {
  await using authority = await OcspAuthority.create();
  const beginning = new ReadableStream({
    start: (controller) => controller.enqueue(new Uint8Array([0x30])),
  });
  for (const answer of [new Promise<Response>(() => {}), new Response(beginning)]) {
    await using server = inPlaceOfResponder((request) => {
      const gone = new Promise<Response>((resolve) =>
        request.signal.addEventListener("abort", () => resolve(new Response()))
      );
      return answer instanceof Response ? answer : Promise.race([answer, gone]);
    });
    const { der } = await authority.issue(serials.good, { url: server.url });
    using client = new OcspClient({ answerSeconds: 0.2 });
    const error = await assertRejects(() => client.status(der, authority.der), TlsError);
    assertEquals(error.code, "ocsp_timeout");
  }
});

Deno.test("a client that ends gives up its questions", async () => {
  await using authority = await OcspAuthority.create();
  const asked = Promise.withResolvers<void>();
  await using server = inPlaceOfResponder((request) => {
    asked.resolve();
    return new Promise((resolve) =>
      request.signal.addEventListener("abort", () => resolve(new Response()))
    );
  });
  const { der } = await authority.issue(serials.good, { url: server.url });
  const client = new OcspClient();
  const question = client.status(der, authority.der);
  await asked.promise;
  client[Symbol.dispose]();
  await assertRejects(() => question, DOMException, "abort");
});

Deno.test("a responder that is not there, and none at all, are told apart", async () => {
  await using authority = await OcspAuthority.create();
  const gone = inPlaceOfResponder(() => new Response());
  await gone[Symbol.asyncDispose]();
  for (
    const [code, options] of [
      ["ocsp_unreachable", { url: gone.url }],
      ["ocsp_no_responder", { url: "https://127.0.0.1/" }],
      ["ocsp_no_responder", {}],
    ] as const
  ) {
    const { der } = await authority.issue(serials.good, options);
    const error = await assertRejects(() => askResponder(der, authority.der), TlsError);
    assertEquals(error.code, code);
  }
});
