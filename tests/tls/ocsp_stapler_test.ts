import { assert, assertEquals } from "@std/assert";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { libcryptoOcsp } from "../../ffi/libcrypto_ocsp.ts";
import { checkOcspResponse } from "../../lib/tls/ocsp.ts";
import { OcspStapler, staplerFor } from "../../lib/tls/ocsp_stapler.ts";
import { CapturedLog } from "../telemetry/captured_log.ts";
import { clockAhead, HeldTimers } from "./clock.ts";
import { OcspAuthority, serials } from "./ocsp_authority.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libcrypto();
libcryptoOcsp();

const minute = 60_000;

/** How long it is until the stapler's timer ends, in minutes. */
function pendingMinutes(timers: HeldTimers): number[] {
  return timers.pending.map((milliseconds) => Math.round(milliseconds / minute));
}

Deno.test("a server has its own response at hand, until that ends", async () => {
  await using authority = await OcspAuthority.create();
  await using responder = await authority.serve({ minutes: 30 });
  const { der } = await authority.issue(serials.good, { url: responder.url });
  using timers = new HeldTimers();
  using stapler = new OcspStapler(der, [der, authority.der]);
  assertEquals(stapler.response, undefined);
  await stapler.ready;
  assertEquals(checkOcspResponse(stapler.response!, der, authority.der).status, "good");
  assertEquals(pendingMinutes(timers), [15]);
  using _clock = clockAhead(31 * minute);
  assertEquals(stapler.response, undefined);
});

Deno.test("a response is replaced at half of its time", async () => {
  await using authority = await OcspAuthority.create();
  await using responder = await authority.serve({ minutes: 30 });
  const { der } = await authority.issue(serials.good, { url: responder.url });
  using timers = new HeldTimers();
  using stapler = new OcspStapler(der, [authority.der]);
  await stapler.ready;
  const first = stapler.response!;
  timers.fire();
  await timers.next();
  assert(stapler.response !== first);
  assertEquals(pendingMinutes(timers), [15]);
  assertEquals(await responder.stop(), 2);
});

Deno.test("a responder that fails is asked again, the old response is kept, and the log says so once", async () => {
  await using authority = await OcspAuthority.create();
  await using responder = await authority.serve({ minutes: 30 });
  const { der } = await authority.issue(serials.good, { url: responder.url });
  using timers = new HeldTimers();
  using log = new CapturedLog();
  using stapler = new OcspStapler(der, [authority.der]);
  await stapler.ready;
  const first = stapler.response;
  await responder.stop();
  for (let attempt = 0; attempt < 3; attempt++) {
    timers.fire();
    await timers.next();
    assertEquals(timers.pending, [30_000]);
  }
  assertEquals(stapler.response, first);
  assertEquals(log.lines(), ["warning this server has no new OCSP response to staple"]);
});

Deno.test("no server shows that its certificate is revoked or unknown, but its log does", async () => {
  await using authority = await OcspAuthority.create();
  await using responder = await authority.serve();
  for (
    const [status, reason] of [
      ["revoked", "This server's certificate is revoked (keyCompromise)"],
      ["unknown", "The authority's responder does not know this server's certificate"],
    ] as const
  ) {
    const { der } = await authority.issue(serials[status], { url: responder.url });
    using _timers = new HeldTimers();
    using log = new CapturedLog();
    using stapler = new OcspStapler(der, [authority.der]);
    await stapler.ready;
    assertEquals(stapler.response, undefined);
    assertEquals(log.records[0]?.properties.reason, reason);
  }
});

Deno.test("a stapler without the authority's certificate says that it is missing", async () => {
  await using authority = await OcspAuthority.create();
  const { der } = await authority.issue(serials.good, { url: "http://127.0.0.1/" });
  using _timers = new HeldTimers();
  using log = new CapturedLog();
  using stapler = new OcspStapler(der, [der]);
  await stapler.ready;
  assertEquals(log.records.length, 1);
  assert(String(log.records[0]?.properties.remedy).includes("--cert"));
});

Deno.test("a stapler that ends while it waits leaves no timer behind", async () => {
  await using authority = await OcspAuthority.create();
  await using responder = await authority.serve();
  const { der } = await authority.issue(serials.good, { url: responder.url });
  using timers = new HeldTimers();
  const stapler = new OcspStapler(der, [authority.der]);
  await stapler.ready;
  assert(stapler.response !== undefined);
  stapler[Symbol.dispose]();
  assertEquals([timers.pending, stapler.response], [[], undefined]);
});

Deno.test("a stapler that ends while it asks gives up, without a word", async () => {
  await using authority = await OcspAuthority.create();
  await using responder = await authority.serve();
  const { der } = await authority.issue(serials.good, { url: responder.url });
  using timers = new HeldTimers();
  using log = new CapturedLog();
  const stapler = new OcspStapler(der, [authority.der]);
  stapler[Symbol.dispose]();
  await stapler.ready;
  assertEquals([timers.pending, stapler.response, log.lines()], [[], undefined, []]);
});

Deno.test("an identity has a stapler if its certificate names a responder", async () => {
  await using authority = await OcspAuthority.create();
  await using responder = await authority.serve();
  const leaf = await authority.issue(serials.good, { url: responder.url });
  const root = authority.identity.certificate;
  using _timers = new HeldTimers();
  for (
    const [certificate, authorities] of [[`${leaf.certificate}\n${root}`, []], [leaf.certificate, [
      root,
    ]]] as const
  ) {
    using stapler = await staplerFor({ certificate }, authorities);
    await stapler?.ready;
    assert(stapler?.response !== undefined);
  }
  assertEquals(await staplerFor(await authority.issue(serials.good), [root]), undefined);
  const unreachable = await authority.issue(serials.good, { url: "https://ocsp.example/" });
  assertEquals(await staplerFor(unreachable, [root]), undefined);
});
