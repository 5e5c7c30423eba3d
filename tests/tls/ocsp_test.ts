import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { libcryptoOcsp } from "../../ffi/libcrypto_ocsp.ts";
import { TlsError } from "../../lib/errors.ts";
import { checkOcspResponse, ocspRequest, responderUrl } from "../../lib/tls/ocsp.ts";
import { findIssuer } from "../../lib/tls/x509.ts";
import { OcspAuthority, type ResponderOptions, serials } from "./ocsp_authority.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libcrypto();
libcryptoOcsp();

const minute = 60_000;
const nonce = crypto.getRandomValues(new Uint8Array(32));

/** An authority, a leaf of this serial number, and what the authority answers on it. */
async function answered(serial: string, options: ResponderOptions = {}) {
  await using authority = await OcspAuthority.create();
  const leaf = await authority.issue(serial);
  const issuer = authority.der;
  const response = await authority.answer(ocspRequest(leaf.der, issuer, nonce), options);
  return { leaf, issuer, response };
}

Deno.test("a certificate in good standing is good, for as long as the responder says", async () => {
  const { leaf, issuer, response } = await answered(serials.good);
  const answer = checkOcspResponse(response, leaf.der, issuer, { nonce });
  assertEquals(answer.status, "good");
  assertEquals(answer.revocationReason, undefined);
  assertEquals(answer.nextUpdate, answer.thisUpdate + 5 * minute);
  assert(Math.abs(answer.thisUpdate - Date.now()) < minute);
});

Deno.test("a revoked certificate is revoked, with the reason", async () => {
  const { leaf, issuer, response } = await answered(serials.revoked);
  const answer = checkOcspResponse(response, leaf.der, issuer, { nonce });
  assertEquals([answer.status, answer.revocationReason], ["revoked", "keyCompromise"]);
});

Deno.test("a certificate that the authority does not know is unknown", async () => {
  const { leaf, issuer, response } = await answered(serials.unknown);
  assertEquals(checkOcspResponse(response, leaf.der, issuer, { nonce }).status, "unknown");
});

/** Why a response is refused. */
function refusal(...check: Parameters<typeof checkOcspResponse>): string {
  const error = assertThrows(() => checkOcspResponse(...check), TlsError);
  assert(error.remedy !== "");
  return error.code;
}

Deno.test("a response is believed until its end, give or take what clocks differ", async () => {
  const { leaf, issuer, response } = await answered(serials.good);
  const inMinutes = (minutes: number) => ({ now: Date.now() + minutes * minute });
  assertEquals(checkOcspResponse(response, leaf.der, issuer, inMinutes(9)).status, "good");
  assertEquals(refusal(response, leaf.der, issuer, inMinutes(11)), "ocsp_expired");
  assertEquals(checkOcspResponse(response, leaf.der, issuer, inMinutes(-4)).status, "good");
  assertEquals(refusal(response, leaf.der, issuer, inMinutes(-6)), "ocsp_early");
});

Deno.test("a response without an end is believed while it is new", async () => {
  const { leaf, issuer, response } = await answered(serials.good, { minutes: 0 });
  const answer = checkOcspResponse(response, leaf.der, issuer);
  assertEquals(answer.nextUpdate, undefined);
  assertEquals(
    refusal(response, leaf.der, issuer, { now: Date.now() + 6 * minute }),
    "ocsp_expired",
  );
});

Deno.test("a responder may be another that the issuer has named, and nobody else", async () => {
  await using authority = await OcspAuthority.create();
  await using other = await OcspAuthority.create();
  const leaf = await authority.issue(serials.good);
  const request = ocspRequest(leaf.der, authority.der);
  const signedBy = async (signer: ResponderOptions["signer"]) =>
    await authority.answer(request, { signer: signer! });
  const delegated = await signedBy(await authority.issue("21", { use: "ocspSigning" }));
  assertEquals(checkOcspResponse(delegated, leaf.der, authority.der).status, "good");
  for (
    const signer of [
      other.identity,
      await other.issue("21", { use: "ocspSigning" }),
      await authority.issue("22", { use: "serverAuth" }),
      await authority.issue("23", { use: "ocspSigning", days: -1 }),
    ]
  ) {
    assertEquals(refusal(await signedBy(signer), leaf.der, authority.der), "ocsp_untrusted");
  }
});

Deno.test("a response to another request is refused, one without a nonce is not", async () => {
  await using authority = await OcspAuthority.create();
  const { der } = await authority.issue(serials.good);
  const issuer = authority.der;
  const other = crypto.getRandomValues(new Uint8Array(32));
  const toOther = await authority.answer(ocspRequest(der, issuer, other));
  assertEquals(refusal(toOther, der, issuer, { nonce }), "ocsp_nonce");
  const without = await authority.answer(ocspRequest(der, issuer));
  assertEquals(checkOcspResponse(without, der, issuer, { nonce }).status, "good");
});

Deno.test("a response on another certificate is refused", async () => {
  await using authority = await OcspAuthority.create();
  const leaf = await authority.issue(serials.good);
  const revoked = await authority.issue(serials.revoked);
  const response = await authority.answer(ocspRequest(leaf.der, authority.der));
  assertEquals(refusal(response, revoked.der, authority.der), "ocsp_other_certificate");
});

Deno.test("a responder that gives no answer is told by what it says instead", async () => {
  await using authority = await OcspAuthority.create();
  const leaf = await authority.issue(serials.good);
  const tryLater = Uint8Array.fromHex("30030a0103");
  const error = assertThrows(
    () => checkOcspResponse(tryLater, leaf.der, authority.der),
    TlsError,
    "trylater",
  );
  assertEquals(error.code, "ocsp_no_answer");
});

Deno.test("what is no response is refused, however near to one it is", async () => {
  const { leaf, issuer, response } = await answered(serials.good);
  assertEquals(refusal(new Uint8Array(), leaf.der, issuer), "ocsp_malformed");
  assertEquals(refusal(Uint8Array.of(...response, 0), leaf.der, issuer), "ocsp_malformed");
  fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
    assertEquals(refusal(bytes, leaf.der, issuer), "ocsp_malformed");
  }));
});

Deno.test("no byte of an answer can be changed", async () => {
  const { leaf, issuer, response } = await answered(serials.good);
  const expected = checkOcspResponse(response, leaf.der, issuer);
  for (let at = 0; at < response.length; at++) {
    const damaged = response.slice();
    damaged[at] = damaged[at]! ^ 1;
    try {
      // The certificates that are sent along are not signed.
      assertEquals(checkOcspResponse(damaged, leaf.der, issuer), expected);
    } catch (error) {
      if (!(error instanceof TlsError)) throw error;
    }
  }
});

Deno.test("what is no certificate is refused", () => {
  const error = assertThrows(() => ocspRequest(new Uint8Array(3), new Uint8Array(3)), TlsError);
  assertEquals(error.code, "certificate_malformed");
});

Deno.test("the responder is the one that the certificate names, by http alone", async () => {
  await using authority = await OcspAuthority.create();
  const urlOf = async (url?: string) =>
    (await responderUrl(
      (await authority.issue(serials.good, url === undefined ? {} : { url })).der,
    ))
      ?.href;
  assertEquals(await urlOf("http://ocsp.example/path"), "http://ocsp.example/path");
  assertEquals(await urlOf(), undefined);
  for (
    const url of ["https://ocsp.example/", "file:///etc/passwd", "http://u:p@host/", "nonsense"]
  ) {
    assertEquals(await urlOf(url), undefined);
  }
});

Deno.test("the issuer is who has signed a certificate, not who has the same name", async () => {
  await using authority = await OcspAuthority.create();
  await using namesake = await OcspAuthority.create();
  const leaf = await authority.issue(serials.good);
  assertEquals(findIssuer(leaf.der, [leaf.der, namesake.der, authority.der]), authority.der);
  assertEquals(findIssuer(leaf.der, [namesake.der]), undefined);
});
