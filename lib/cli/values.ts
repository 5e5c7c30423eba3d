import { InvalidArgumentError } from "commander";
import { isIP } from "node:net";
import { domainToASCII } from "node:url";
import { parseByteSize } from "../byte_size.ts";
import type { Endpoint } from "../tls/connection.ts";

/** A parser of one value on the command line; throws InvalidArgumentError, which names the option. */
export type Parse<T> = (text: string) => T;

/** A whole number from `least` to `most`. */
export function wholeNumber(least: number, most: number): Parse<number> {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : NaN;
    if (value >= least && value <= most) return value;
    throw new InvalidArgumentError(`It must be a whole number from ${least} to ${most}.`);
  };
}

/** A number of bytes from `least` to `most`, written as {@linkcode parseByteSize} takes it. */
export function byteSize(least: number, most: number): Parse<number> {
  return (text) => {
    const value = parseByteSize(text);
    if (value === undefined) {
      throw new InvalidArgumentError("It must be a number of bytes, such as 4096, 4k or 1MiB.");
    }
    if (value >= least && value <= most) return value;
    throw new InvalidArgumentError(`It must be from ${least} to ${most} bytes.`);
  };
}

const secondsIn: Record<string, number> = { "": 1, ms: 0.001, s: 1, m: 60, h: 3600 };

/** A duration in seconds, from `least` to `most`: `30`, `30s`, `1.5s`, `500ms`, `5m`, `1h`. */
export function duration(least: number, most: number): Parse<number> {
  return (text) => {
    const [, digits, unit = ""] = /^(\d+(?:\.\d+)?)(ms|s|m|h)?$/.exec(text) ?? [];
    if (digits === undefined) {
      throw new InvalidArgumentError("It must be a duration, such as 30s, 500ms or 5m.");
    }
    const value = Number(digits) * (secondsIn[unit] ?? NaN);
    if (value >= least && value <= most) return value;
    throw new InvalidArgumentError(`It must be from ${least} to ${most} seconds.`);
  };
}

/** A host name or an IP address; international names come back in their ASCII form. */
export function host(text: string): string {
  if (isIP(text) !== 0) return text;
  const name = domainToASCII(text).replace(/\.$/, "");
  if (name.length <= 253 && /^(?!-)[\w-]{1,63}(\.(?!-)[\w-]{1,63})*$/.test(name)) return name;
  throw new InvalidArgumentError(`${JSON.stringify(text)} is no host name or IP address.`);
}

/** `HOST`, `HOST:PORT`, `[IPV6]:PORT` or a bare IPv6 address. */
export function endpoint(defaultPort: number): Parse<Endpoint> {
  return (text) => {
    if (isIP(text) === 6) return { hostname: text, port: defaultPort };
    const [, bracketed, plain, port] = /^(?:\[([^\]]*)\]|([^:]*))(?::(.*))?$/.exec(text) ?? [];
    if (bracketed === undefined ? plain === undefined : isIP(bracketed) !== 6) {
      throw new InvalidArgumentError("It must be HOST, HOST:PORT or [IPV6]:PORT.");
    }
    return {
      hostname: bracketed ?? host(plain ?? ""),
      port: port === undefined ? defaultPort : wholeNumber(1, 65535)(port),
    };
  };
}

/** Where to listen; without a host, where the program listens anyway. */
export interface ListenAddress {
  readonly hostname?: string;
  readonly port: number;
}

/** `:PORT`, `HOST:PORT` or `[IPV6]:PORT`; port 0 lets the system choose. */
export function listenAddress(text: string): ListenAddress {
  const [, hostname, digits] = /^(\[[^\]]*\]|[^:]*):(\d+)$/.exec(text) ?? [];
  if (hostname === undefined || digits === undefined) {
    throw new InvalidArgumentError("It must be :PORT, HOST:PORT or [IPV6]:PORT.");
  }
  const port = wholeNumber(0, 65535)(digits);
  return hostname === "" ? { port } : { ...endpoint(port)(hostname), port };
}

/** A parser of an option that may be given more than once, for commander to call each time. */
export function repeated<T>(parse: Parse<T>): (text: string, before: T[] | undefined) => T[] {
  return (text, before = []) => [...before, parse(text)];
}
