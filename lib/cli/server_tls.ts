import { type Command, Option } from "commander";
import { delay } from "@std/async/delay";
import { toPlainError, UsageError } from "../errors.ts";
import type { Audit } from "../security/audit.ts";
import { loadPolicy } from "../security/policy_file.ts";
import type { Policy } from "../security/policy.ts";
import { logger } from "../telemetry/log.ts";
import type { TlsListener } from "../tls/connection.ts";
import { daysUntil, expiryPause, warningDays } from "../tls/expiry.ts";
import { firstExpiry } from "../tls/load_revocation_lists.ts";
import { OcspClient } from "../tls/ocsp_client.ts";
import {
  type CheckRevocation,
  checkRevocation,
  type OcspMode,
  ocspModes,
} from "../tls/revocation.ts";
import { isPkcs11Uri, parsePkcs11Uri } from "../tls/pkcs11_uri.ts";
import {
  type CredentialFiles,
  loadCredentials,
  type ServerCredentials,
} from "../tls/server_credentials.ts";
import { WatchedFiles } from "../tls/watched_files.ts";
import { decodePem } from "../tls/x509.ts";
import { ciphersOption, minVersionOption, type TlsSettingsOptions } from "./tls_options.ts";
import { repeated } from "./values.ts";

const log = logger("server");

/** How often files that do not fit are read again before they are given up, and after how long. */
const attempts = 10;
const attemptMilliseconds = 200;

/** Longest time of a timer, in milliseconds: a day, as longer ones overflow and clocks can be set. */
const longestTimer = 86_400_000;

/** What the options of a server's TLS leave. */
export interface ServerTlsOptions extends TlsSettingsOptions {
  readonly cert: string;
  readonly key: string;
  readonly clientCa?: string;
  readonly clientAuth?: "required" | "optional";
  readonly crl?: readonly string[];
  readonly ocsp: OcspMode;
  readonly policy?: string;
}

/** Adds the options of a server's TLS to its command. */
export function addServerTlsOptions(command: Command): Command {
  return command
    .option("--cert <file>", "certificate of the server, PEM", "certs/server.pem")
    .option(
      "--key <file>",
      "its key, PEM, or the pkcs11: URI of a key in a token",
      "certs/server.key",
    )
    .option("--client-ca <file>", "ask clients for certificates of these authorities, PEM")
    .addOption(
      new Option("--client-auth <how>", "whether a client needs one (default: required)")
        .choices(["required", "optional"]),
    )
    .option(
      "--crl <file>",
      "refuse clients by this list of revoked certificates; may be repeated, and is to cover " +
        "each authority",
      repeated(String),
    )
    .addOption(
      new Option(
        "--ocsp <mode>",
        "ask the responder that a client's certificate names whether it is revoked: prefer lets " +
          "it in where there is no answer; but for off, also staple the server's own response",
      ).choices(ocspModes).default("prefer"),
    )
    .option("--policy <file>", "what each client may do (YAML, see below); without it, everything")
    .addOption(minVersionOption())
    .addOption(ciphersOption());
}

/**
 * What a running server shows and believes: of its files, and of what they become. They are read
 * again when they change, and on SIGHUP; where that fails, what was there before stays in use.
 */
export class ServerTls implements Disposable {
  readonly #options: ServerTlsOptions;
  readonly #files: CredentialFiles;
  readonly #ocsp: OcspClient | undefined;
  readonly #loadPolicy: () => Promise<Policy | undefined>;
  readonly #running: DisposableStack;
  #listeners: readonly TlsListener[] = [];
  #credentials: ServerCredentials;
  #policy: Policy | undefined;
  #reloading: Promise<void> | undefined;
  #again = false;
  #ended = false;
  #audit: Audit | undefined;
  /** Timer of the next look at the certificate's end. */
  #expiry: number | undefined;
  /** Timer of the first end of a revocation list. */
  #listExpiry: number | undefined;

  private constructor(
    options: ServerTlsOptions,
    files: CredentialFiles,
    credentials: ServerCredentials,
    ocsp: OcspClient | undefined,
    loadPolicy: () => Promise<Policy | undefined>,
    running: DisposableStack,
  ) {
    this.#running = running;
    this.#running.defer(() => clearTimeout(this.#expiry));
    this.#running.defer(() => clearTimeout(this.#listExpiry));
    this.#options = options;
    this.#files = files;
    this.#credentials = credentials;
    this.#loadPolicy = loadPolicy;
    this.#ocsp = ocsp;
  }

  /**
   * Reads the files.
   *
   * @param checkPolicy throws if this server cannot do what the policy says
   * @throws UsageError when options do not go together, TlsError or PolicyError naming what is wrong
   * with which file
   */
  static async load(
    options: ServerTlsOptions,
    checkPolicy: (policy: Policy | undefined) => void,
  ): Promise<ServerTls> {
    checkTogether(options);
    using running = new DisposableStack();
    const asks = options.clientCa !== undefined && options.ocsp !== "off";
    const ocsp = asks ? running.use(new OcspClient()) : undefined;
    const files = {
      cert: options.cert,
      key: options.key,
      clientCa: options.clientCa,
      clientRequired: options.clientAuth !== "optional",
      crl: options.crl ?? [],
      staple: options.ocsp !== "off",
      knownRefusal: ocsp?.knownRefusal,
    };
    const load = async () => {
      const policy = options.policy === undefined ? undefined : await loadPolicy(options.policy);
      checkPolicy(policy);
      return policy;
    };
    // What changes from here on is read again, be it that the server does not listen yet.
    let changedEarly = false;
    let reload = () => {
      changedEarly = true;
    };
    const changed = () => reload();
    running.use(new WatchedFiles(pathsOf(options), changed));
    Deno.addSignalListener("SIGHUP", changed);
    running.defer(() => Deno.removeSignalListener("SIGHUP", changed));
    const policy = await load();
    const credentials = await loadCredentials(files);
    const loaded = new ServerTls(options, files, credentials, ocsp, load, running.move());
    loaded.#policy = policy;
    reload = () => loaded.#reload();
    if (changedEarly) reload();
    return loaded;
  }

  /**
   * Reads the files as when they change, and uses nothing of them.
   *
   * @throws as {@linkcode load}
   */
  async tryReload(): Promise<void> {
    (await loadCredentials(this.#files))[Symbol.dispose]();
    await this.#loadPolicy();
  }

  /** For a listener. */
  get credentials(): ServerCredentials {
    return this.#credentials;
  }

  /** Of the moment; undefined where there is none, and everybody may do everything. */
  get policy(): Policy | undefined {
    return this.#policy;
  }

  /** Asks about a client's certificate; undefined where nobody is to be asked. */
  get checkRevocation(): CheckRevocation | undefined {
    const client = this.#ocsp;
    if (!client) return undefined;
    return ({ peerCertificates, peerAddress: peer }, signal) =>
      checkRevocation(peerCertificates, {
        mode: this.#options.ocsp,
        client,
        peer,
        signal,
        authorities: this.#credentials.authorities.flatMap((pem) => decodePem(pem, "CERTIFICATE")),
      });
  }

  /** Keeps these listeners as the files say from now on, and records each change. */
  keep(listeners: readonly TlsListener[], audit: Audit | undefined): void {
    this.#listeners = listeners;
    this.#audit = audit;
    this.#warnOfExpiry();
    this.#awaitListExpiry();
  }

  [Symbol.dispose](): void {
    this.#ended = true;
    this.#running.dispose();
    this.#credentials[Symbol.dispose]();
  }

  #reload(): void {
    this.#again = true;
    this.#reloading ??= this.#reloadUntilUpToDate().finally(() => this.#reloading = undefined);
  }

  async #reloadUntilUpToDate(): Promise<void> {
    while (this.#again && !this.#ended) {
      this.#again = false;
      await this.#attempt("certificates", () => this.#reloadCredentials());
      await this.#attempt("policy", () => this.#reloadPolicy());
    }
  }

  /** Files that belong together change one after the other, so that there are moments at which they do not fit. */
  async #attempt(what: string, reload: () => Promise<void>): Promise<void> {
    for (let attempt = 1; !this.#ended; attempt++) {
      try {
        return await reload();
      } catch (error) {
        if (attempt < attempts) {
          await delay(attemptMilliseconds);
          continue;
        }
        const { code, message, remedy } = toPlainError(error);
        this.#record({ what, result: code, detail: message });
        return log.error(`${what} not read again: what was there before stays in use`, {
          reason: code,
          detail: message,
          remedy,
        });
      }
    }
  }

  async #reloadCredentials(): Promise<void> {
    const before = this.#credentials;
    const credentials = await loadCredentials(this.#files, before);
    // Another context would end the resumption of TLS sessions for nothing.
    const changed = credentials !== before;
    if (changed) await this.#replace(before, credentials);
    if (this.#ended) return;
    const { fingerprint256: fingerprint, validTo } = credentials.certificate;
    log.info("certificates read again", { fingerprint, validTo, changed });
    this.#record({ what: "certificates", result: "done", fingerprint });
    this.#warnOfExpiry();
  }

  async #replace(before: ServerCredentials, credentials: ServerCredentials): Promise<void> {
    const updated: TlsListener[] = [];
    try {
      for (const listener of this.#listeners) {
        await listener.update(credentials.listener);
        updated.push(listener);
      }
    } catch (error) {
      // All listeners show the same, be it what they have shown before.
      for (const listener of updated) await listener.update(before.listener);
      credentials.giveWayTo(before);
      throw error;
    }
    if (this.#ended) return credentials[Symbol.dispose]();
    this.#credentials = credentials;
    before.giveWayTo(credentials);
    this.#awaitListExpiry();
  }

  /** When the first revocation list in use expires, in milliseconds since 1970. */
  get #listsEnd(): number {
    return firstExpiry(
      this.#credentials.listener.clientAuthentication?.trust.revocationLists ?? [],
    );
  }

  /** A list that expires has the files read again: there may be another one, and otherwise the log says so. */
  #awaitListExpiry(): void {
    clearTimeout(this.#listExpiry);
    const left = this.#listsEnd - Date.now();
    if (left === Infinity || left < 0) return;
    this.#listExpiry = setTimeout(() => {
      if (this.#listsEnd < Date.now()) this.#reload();
      else this.#awaitListExpiry();
    }, Math.min(left + 1000, longestTimer));
  }

  async #reloadPolicy(): Promise<void> {
    const { policy: file } = this.#options;
    if (file === undefined) return;
    this.#policy = await this.#loadPolicy();
    log.info("policy read again", { file });
    this.#record({ what: "policy", result: "done", file });
  }

  #record(facts: Record<string, unknown>): void {
    this.#audit?.record({ ...facts, event: "configuration" }).catch(() => {});
  }

  #warnOfExpiry(): void {
    const { validTo } = this.#credentials.certificate;
    const end = new Date(validTo);
    const now = Date.now();
    clearTimeout(this.#expiry);
    this.#expiry = setTimeout(() => this.#warnOfExpiry(), expiryPause(end, now));
    const days = daysUntil(end, now);
    if (days >= warningDays) return;
    log.warning("the server's certificate is about to expire", {
      file: this.#files.cert,
      validTo,
      days,
      remedy: `renew it: verbseal certs renew ${this.#files.cert}`,
    });
  }
}

/** The files that the options name, be it by a URI. */
function pathsOf({ cert, key, clientCa, crl = [], policy }: ServerTlsOptions): string[] {
  const keyFile = isPkcs11Uri(key) ? parsePkcs11Uri(key).pinFile : key;
  return [cert, keyFile, clientCa, ...crl, policy].filter((path) => path !== undefined);
}

function checkTogether({ clientCa, clientAuth, crl = [] }: ServerTlsOptions): void {
  if (clientCa !== undefined) return;
  const [option] = [
    ...(clientAuth === undefined ? [] : ["--client-auth"]),
    ...(crl.length === 0 ? [] : ["--crl"]),
  ];
  if (option === undefined) return;
  throw new UsageError(
    "client_ca_missing",
    `${option} is about clients' certificates, and without --client-ca none is asked for`,
    "Name the clients' authorities with --client-ca",
  );
}
