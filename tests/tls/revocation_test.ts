import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { libcryptoOcsp } from "../../ffi/libcrypto_ocsp.ts";
import { TlsError } from "../../lib/errors.ts";
import { ocspRequest } from "../../lib/tls/ocsp.ts";
import { OcspClient } from "../../lib/tls/ocsp_client.ts";
import { checkRevocation, checkStaple } from "../../lib/tls/revocation.ts";
import { CapturedLog } from "../telemetry/captured_log.ts";
import { OcspAuthority, serials } from "./ocsp_authority.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libcrypto();
libcryptoOcsp();

const peer = { hostname: "192.0.2.1", port: 5000 };
const strict = ["prefer", "require"] as const;

Deno.test("a certificate in good standing passes, whether its root was sent along or not", async () => {
  await using authority = await OcspAuthority.create();
  await using responder = await authority.serve();
  const leaf = await authority.issue(serials.good, { url: responder.url, use: "clientAuth" });
  using client = new OcspClient();
  using log = new CapturedLog();
  for (const mode of strict) {
    await checkRevocation([leaf.der, authority.der], { mode, client, peer, authorities: [] });
    await checkRevocation([leaf.der], { mode, client, peer, authorities: [authority.der] });
  }
  assertEquals(log.lines(), []);
});

Deno.test("a certificate that is revoked or unknown is refused, unless nobody asks", async () => {
  await using authority = await OcspAuthority.create();
  await using responder = await authority.serve();
  using client = new OcspClient();
  const options = { client, peer, authorities: [authority.der] };
  for (const status of ["revoked", "unknown"] as const) {
    const { der } = await authority.issue(serials[status], { url: responder.url });
    for (const mode of strict) {
      const check = () => checkRevocation([der], { mode, ...options });
      const error = await assertRejects(check, TlsError, "192.0.2.1:5000");
      assertEquals(error.code, `certificate_${status}`);
      assertEquals(error.message.includes("(keyCompromise)"), status === "revoked");
    }
    await checkRevocation([der], { mode: "off", ...options });
  }
  assertEquals(await responder.stop(), 2);
});

Deno.test("no answer is tolerated with a warning, or not if one is required", async () => {
  await using authority = await OcspAuthority.create();
  using client = new OcspClient();
  const options = { client, peer, authorities: [authority.der] };
  const responder = await authority.serve();
  await responder.stop();
  const { der } = await authority.issue(serials.good, { url: responder.url });
  using log = new CapturedLog();
  await checkRevocation([der], { mode: "prefer", ...options });
  assertEquals(log.lines("peer", "code"), [
    "warning whether a certificate is revoked is not known 192.0.2.1:5000 ocsp_unreachable",
  ]);
  const required = () => checkRevocation([der], { mode: "require", ...options });
  const error = await assertRejects(required, TlsError, "cannot be reached");
  assertEquals(error.code, "revocation_unknown");
});

Deno.test("who names no responder passes without a word, or not if an answer is required", async () => {
  await using authority = await OcspAuthority.create();
  using client = new OcspClient();
  const options = { client, peer, authorities: [authority.der] };
  const { der } = await authority.issue(serials.good);
  using log = new CapturedLog();
  await checkRevocation([der], { mode: "prefer", ...options });
  assertEquals(log.lines("peer", "code"), []);
  const required = () => checkRevocation([der], { mode: "require", ...options });
  await assertRejects(required, TlsError, "names no OCSP responder");
});

Deno.test("a namesake of the authority, sent along, is not asked to speak for it", async () => {
  await using authority = await OcspAuthority.create();
  await using namesake = await OcspAuthority.create();
  await using responder = await namesake.serve();
  const { der } = await authority.issue(serials.good, { url: responder.url });
  using client = new OcspClient();
  for (
    const [authorities, reason] of [[[], "not known"], [[authority.der], "signed neither"]] as const
  ) {
    await assertRejects(
      () => checkRevocation([der, namesake.der], { mode: "require", client, peer, authorities }),
      TlsError,
      reason,
    );
  }
});

Deno.test("who has shown no certificate is not asked about", async () => {
  using client = new OcspClient();
  await checkRevocation([], { mode: "require", client, peer, authorities: [] });
});

Deno.test("who gives up waiting is not let in for that", async () => {
  await using authority = await OcspAuthority.create();
  const { der } = await authority.issue(serials.good, { url: "http://192.0.2.1/" });
  using client = new OcspClient();
  const reason = new TlsError("handshake_timeout", "too late");
  const options = { mode: "prefer", client, peer, authorities: [authority.der] } as const;
  const signal = AbortSignal.abort(reason);
  await assertRejects(() => checkRevocation([der], { ...options, signal }), TlsError, "too late");
});

Deno.test("a staple counts as the responder's own answer", async () => {
  await using authority = await OcspAuthority.create();
  using log = new CapturedLog();
  const staple = async (der: Uint8Array) => await authority.answer(ocspRequest(der, authority.der));
  const good = await authority.issue(serials.good);
  const revoked = await authority.issue(serials.revoked);
  const options = { peer, authorities: [authority.der] };
  for (const mode of strict) {
    checkStaple(await staple(good.der), [good.der], { mode, ...options });
    const bad = await staple(revoked.der);
    const error = assertThrows(
      () => checkStaple(bad, [revoked.der], { mode, ...options }),
      TlsError,
    );
    assertEquals(error.code, "certificate_revoked");
  }
  assertEquals(log.lines(), []);
});

Deno.test("a staple that is missing, or another certificate's, is none", async () => {
  await using authority = await OcspAuthority.create();
  const { der } = await authority.issue(serials.good);
  const other = await authority.issue(serials.revoked);
  const others = await authority.answer(ocspRequest(other.der, authority.der));
  const options = { peer, authorities: [authority.der] };
  for (
    const [staple, code] of [[undefined, "ocsp_no_staple"], [
      others,
      "ocsp_other_certificate",
    ]] as const
  ) {
    using log = new CapturedLog();
    checkStaple(staple, [der], { mode: "off", ...options });
    assertEquals(log.lines(), []);
    checkStaple(staple, [der], { mode: "prefer", ...options });
    assertEquals(log.records[0]?.properties.code, code);
    const required = () => checkStaple(staple, [der], { mode: "require", ...options });
    assertEquals(assertThrows(required, TlsError).code, "revocation_unknown");
  }
});
