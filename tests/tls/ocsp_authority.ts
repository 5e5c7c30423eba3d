import { assertEquals } from "@std/assert";
import { TextLineStream } from "@std/streams/text-line-stream";
import * as x509 from "../../lib/tls/peculiar_x509.ts";
import { keyPem } from "../../lib/tls/authority.ts";
import type { Identity } from "../../lib/tls/trust.ts";
import { daysFromNow } from "./odd_certificates.ts";

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };

/** Serial numbers, by what the authority's index says of them; of the last it says nothing. */
export const serials = { good: "11", revoked: "12", unknown: "13" } as const;

/** How a responder answers, where not as the authority itself and for five minutes. */
export interface ResponderOptions {
  readonly signer?: Identity;
  /** 0 for answers without an end. */
  readonly minutes?: number;
}

/** An authority with an index of what it has revoked, and `openssl ocsp` that answers from it. */
export class OcspAuthority implements AsyncDisposable {
  private constructor(
    readonly identity: Identity,
    readonly certificate: x509.X509Certificate,
    readonly keys: CryptoKeyPair,
    readonly folder: string,
  ) {}

  static async create(): Promise<OcspAuthority> {
    const folder = await Deno.makeTempDir();
    const keys = await generateKeys();
    const certificate = await x509.X509CertificateGenerator.createSelfSigned({
      serialNumber: "01",
      name: "CN=Authority",
      notBefore: daysFromNow(-1),
      notAfter: daysFromNow(30),
      keys,
      signingAlgorithm: algorithm,
      extensions: [
        new x509.BasicConstraintsExtension(true, undefined, true),
        new x509.KeyUsagesExtension(
          x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign,
          true,
        ),
      ],
    });
    await Deno.writeTextFile(
      `${folder}/index`,
      `V\t491231235959Z\t\t${serials.good}\tunknown\t/CN=leaf\n` +
        `R\t491231235959Z\t250101000000Z,keyCompromise\t${serials.revoked}\tunknown\t/CN=leaf\n`,
    );
    const identity = {
      certificate: certificate.toString("pem"),
      key: await keyPem(keys.privateKey),
    };
    return new OcspAuthority(identity, certificate, keys, folder);
  }

  get der(): Uint8Array {
    return new Uint8Array(this.certificate.rawData);
  }

  /** A leaf, whose status is asked for at `url`. */
  async issue(
    serialNumber: string,
    { url, use = "serverAuth", days = 1 }: {
      url?: string;
      use?: "serverAuth" | "clientAuth" | "ocspSigning";
      days?: number;
    } = {},
  ): Promise<Identity & { readonly der: Uint8Array }> {
    const keys = await generateKeys();
    const certificate = await x509.X509CertificateGenerator.create({
      serialNumber,
      subject: "CN=leaf",
      issuer: this.certificate.subjectName,
      notBefore: daysFromNow(-2),
      notAfter: daysFromNow(days),
      publicKey: keys.publicKey,
      signingKey: this.keys.privateKey,
      signingAlgorithm: algorithm,
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage[use]]),
        new x509.SubjectAlternativeNameExtension([{ type: "dns", value: "localhost" }]),
        ...(url === undefined ? [] : [new x509.AuthorityInfoAccessExtension({ ocsp: url })]),
      ],
    });
    return {
      certificate: certificate.toString("pem"),
      key: await keyPem(keys.privateKey),
      der: new Uint8Array(certificate.rawData),
    };
  }

  /** What the authority answers to a request, DER. */
  async answer(request: Uint8Array, options: ResponderOptions = {}): Promise<Uint8Array> {
    const files = { request: await this.#file(request), response: await this.#file("") };
    const { success, stderr } = await new Deno.Command("openssl", {
      args: [
        ...await this.#responderArguments(options),
        ...["-reqin", files.request, "-respout", files.response],
      ],
      stdin: "null",
    }).output();
    assertEquals(success, true, new TextDecoder().decode(stderr));
    return await Deno.readFile(files.response);
  }

  /** Starts `openssl ocsp` on a free port. */
  async serve(options: ResponderOptions = {}): Promise<OcspResponder> {
    const args = [...await this.#responderArguments(options), "-port", "0"];
    return await OcspResponder.start(args);
  }

  async #responderArguments(
    { signer = this.identity, minutes = 5 }: ResponderOptions,
  ): Promise<string[]> {
    return [
      ...["ocsp", "-index", `${this.folder}/index`],
      ...["-CA", await this.#file(this.identity.certificate)],
      ...["-rsigner", await this.#file(signer.certificate)],
      ...["-rkey", await this.#file(signer.key)],
      ...(minutes === 0 ? [] : ["-nmin", String(minutes)]),
    ];
  }

  async #file(content: string | Uint8Array): Promise<string> {
    const path = `${this.folder}/${crypto.randomUUID()}`;
    await Deno.writeFile(
      path,
      typeof content === "string" ? new TextEncoder().encode(content) : content,
    );
    return path;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.folder, { recursive: true });
  }
}

/** `openssl ocsp` at work. */
export class OcspResponder implements AsyncDisposable {
  #requests = 0;

  private constructor(
    readonly url: string,
    readonly process: Deno.ChildProcess,
    /** Ends when the process does. */
    readonly counting: Promise<void>,
  ) {}

  static async start(args: string[]): Promise<OcspResponder> {
    const process = new Deno.Command("openssl", {
      args,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const port = Promise.withResolvers<string>();
    let responder: OcspResponder | undefined;
    const errors: string[] = [];
    const counting = Promise.all([
      eachLine(process.stdout, (line) => {
        const match = /^ACCEPT .*:(\d+)/.exec(line);
        if (match) port.resolve(match[1]!);
      }),
      eachLine(process.stderr, (line) => {
        errors.push(line);
        if (line.includes("Received request") && responder) responder.#requests++;
      }),
    ]).then(() => port.reject(new Error(errors.join("\n"))));
    const url = `http://127.0.0.1:${await port.promise}/`;
    return responder = new OcspResponder(url, process, counting);
  }

  /** Stops it, and tells how many requests it has had. */
  async stop(): Promise<number> {
    try {
      this.process.kill();
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
    }
    await this.process.status;
    await this.counting;
    return this.#requests;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

async function eachLine(
  stream: ReadableStream<Uint8Array<ArrayBuffer>>,
  take: (line: string) => void,
): Promise<void> {
  const lines = stream.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream());
  for await (const line of lines) take(line);
}

function generateKeys(): Promise<CryptoKeyPair> {
  return crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
}
