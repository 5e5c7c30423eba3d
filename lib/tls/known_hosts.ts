import ipaddr from "ipaddr.js";
import { isIP } from "node:net";
import { dirname, join } from "node:path";
import { errorText, TlsError } from "../errors.ts";
import { writeText } from "../telemetry/streams.ts";
import { type Endpoint, endpointText } from "./connection.ts";
import { parsePin } from "./pin.ts";

/** A line of the file: a server, and a public key that it has. */
export interface KnownHost {
  /** `host:port` as {@linkcode hostText} writes it. */
  readonly host: string;
  /** See {@linkcode pinOf}. */
  readonly pin: string;
  /** From 1. */
  readonly line: number;
}

/** A server has another key than those that it is known by. */
export class HostKeyChangedError extends TlsError {
  /**
   * @param pin of the key that it has now
   * @param path of the file
   * @param known its lines about the server
   */
  constructor(
    readonly host: string,
    readonly pin: string,
    readonly path: string,
    readonly known: readonly KnownHost[],
  ) {
    const lines = known.map(({ line }) => line);
    const which = lines.length === 1 ? `line ${lines[0]}` : `lines ${lines.join(" and ")}`;
    super(
      "host_key_changed",
      `The key of ${host} has changed: it is ${pin}, not that of ${which} of ${path}`,
      `Ask the server's operator. If the key was changed on purpose, remove ${which} of ${path}`,
    );
  }
}

/**
 * Where known hosts are kept unless told: `verbseal/known_hosts` in the folder for configuration
 * (XDG Base Directory Specification); undefined for a user without a home.
 */
export function defaultKnownHosts(): string | undefined {
  const [config, home] = [Deno.env.get("XDG_CONFIG_HOME"), Deno.env.get("HOME")];
  if (config?.startsWith("/")) return join(config, "verbseal", "known_hosts");
  return home ? join(home, ".config", "verbseal", "known_hosts") : undefined;
}

/**
 * A file of servers and their keys. A line is `HOST:PORT sha256:…`; `#` begins a comment. A server
 * with several lines has any of these keys.
 */
export class KnownHosts {
  /** @param path of a file; it need not exist */
  constructor(readonly path: string) {}

  /**
   * What the file says of a server.
   *
   * @throws TlsError when the file cannot be read, or a line is malformed
   */
  async find(server: Endpoint): Promise<KnownHost[]> {
    try {
      // Without a lock, which any other reader could keep: a line is added by one write(2).
      return this.#about(server, await Deno.readTextFile(this.path));
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return [];
      throw this.#failure("read", error);
    }
  }

  /**
   * Adds the key of a server that is not in the file. The file is made with mode 0600, its folder
   * with 0700. Another client may have added the same meanwhile.
   *
   * @throws HostKeyChangedError if the server is in the file by now, with other keys; TlsError when
   * the file cannot be written
   */
  async add(server: Endpoint, pin: string): Promise<void> {
    try {
      await Deno.mkdir(dirname(this.path), { recursive: true, mode: 0o700 });
      const options = { read: true, append: true, create: true, mode: 0o600 };
      using file = await Deno.open(this.path, options);
      await file.lock(true);
      const text = await textOf(file);
      const known = this.#about(server, text);
      if (known.some((each) => each.pin === pin)) return;
      if (known.length > 0) {
        throw new HostKeyChangedError(hostText(server), pin, this.path, known);
      }
      const begin = text === "" || text.endsWith("\n") ? "" : "\n";
      await append(file, `${begin}${formatKnownHost(server, pin)}\n`);
    } catch (error) {
      throw this.#failure("written", error);
    }
  }

  #about(server: Endpoint, text: string): KnownHost[] {
    const host = hostText(server);
    return parseKnownHosts(text, this.path).filter((known) => known.host === host);
  }

  #failure(verb: string, error: unknown): unknown {
    if (error instanceof TlsError) return error;
    return new TlsError(
      "known_hosts_failed",
      `The file of known hosts ${this.path} cannot be ${verb}: ${errorText(error)}`,
      "Let this user read and write it, or name another file with --known-hosts",
      { cause: error },
    );
  }
}

/** All of a file that stays open. */
async function textOf(file: Deno.FsFile): Promise<string> {
  const bytes = new Uint8Array((await file.stat()).size);
  let length = 0;
  for (let count; (count = await file.read(bytes.subarray(length)));) length += count;
  return new TextDecoder().decode(bytes.subarray(0, length));
}

/** Adds all of `text` to a file, or nothing where the disk is full. */
async function append(file: Deno.FsFile, text: string): Promise<void> {
  const { size } = await file.stat();
  try {
    writeText(file, text);
    await file.sync();
  } catch (error) {
    await file.truncate(size);
    throw error;
  }
}

/**
 * `host:port` in one spelling: lower case, IPv6 addresses in brackets and in the form of RFC 5952.
 */
export function hostText({ hostname, port }: Endpoint): string {
  const canonical = isIP(hostname) === 6
    ? ipaddr.parse(hostname).toString()
    : hostname.toLowerCase().replace(/\.$/, "");
  return endpointText({ hostname: canonical, port });
}

/** A line for a file of known hosts, without its end. */
export function formatKnownHost(server: Endpoint, pin: string): string {
  return `${hostText(server)} ${pin}`;
}

/**
 * Reads the text of a file of known hosts.
 *
 * @param path of the file, for messages
 * @throws TlsError `known_hosts_malformed` that names the line
 */
export function parseKnownHosts(text: string, path: string): KnownHost[] {
  return text.split("\n").flatMap((content, index) => {
    const words = content.replace(/#.*/, "").trim();
    if (words === "") return [];
    try {
      return [{ ...parseLine(words), line: index + 1 }];
    } catch (error) {
      throw new TlsError(
        "known_hosts_malformed",
        `Line ${index + 1} of ${path} is not understood: ${errorText(error)}`,
        "Mend or remove it; a line is HOST:PORT, a space, and sha256: with what follows it",
        { cause: error },
      );
    }
  });
}

function parseLine(words: string): Omit<KnownHost, "line"> {
  const [host = "", pin = "", ...others] = words.split(/\s+/);
  if (others.length > 0) throw new Error(`there is more than a host and a key`);
  return { host: hostText(parseHost(host)), pin: parsePin(pin) };
}

function parseHost(text: string): Endpoint {
  const [, ipv6, name, digits] = /^(?:\[([^\]]+)\]|([\w.-]+)):(\d{1,5})$/.exec(text) ?? [];
  const [hostname, port] = [ipv6 ?? name, Number(digits)];
  const known = hostname !== undefined && (ipv6 === undefined || isIP(ipv6) === 6);
  if (known && port >= 1 && port <= 65535) return { hostname, port };
  throw new Error(`${JSON.stringify(text)} is no HOST:PORT`);
}
