import { Option } from "commander";
import type { Transport } from "../control/messages.ts";
import { TlsError } from "../errors.ts";
import type { SealMode } from "../session/sealing.ts";
import { REKEY_BYTES } from "../session/sealing_limit.ts";
import { logger } from "../telemetry/log.ts";
import { protocol } from "../tls/connection.ts";
import { dataProtocol } from "../tls/data_connection.ts";
import { kernelTlsStatistics } from "../tls/kernel_statistics.ts";
import type { ListenOptions } from "../tls/options.ts";

const log = logger("server");
import { byteSize } from "./values.ts";

/** One of them, or both, RDMA first. */
export type TransportChoice = Transport | "any";

/** What carries data. */
export function transportOption(preset: TransportChoice): Option {
  return new Option(
    "--transport <way>",
    "what carries data: rdma, or ktls for TLS connections of their own that the kernel seals; " +
      "any for both, and rdma where the other side has it",
  ).choices(["rdma", "ktls", "any"]).default(preset);
}

/** Whether what RDMA carries is sealed; TLS seals its own. */
export function sealOption(): Option {
  const preset: SealMode = "required";
  return new Option(
    "--seal <mode>",
    "with rdma: required encrypts and authenticates all that it carries; off does neither, " +
      "where both sides ask for it",
  ).choices(["required", "off"]).default(preset);
}

/** When a client replaces its data connection. */
export function rekeyOption(): Option {
  return new Option(
    "--rekey-bytes <bytes>",
    "with ktls: data after which another connection, with other keys, takes over",
  ).argParser(byteSize(2 ** 16, REKEY_BYTES)).default(REKEY_BYTES, "64 GiB");
}

/** What a listener has to speak for them; data connections come to the same port as all others. */
export function protocolsOf(
  transports: readonly Transport[],
): Pick<ListenOptions, "protocols" | "kernelProtocol"> {
  if (!transports.includes("ktls")) return {};
  return { protocols: [protocol, dataProtocol], kernelProtocol: dataProtocol };
}

/** A server works without the kernel's TLS, but not as fast as who asks for it expects. */
export function warnOfUserSpace(transports: readonly Transport[]): void {
  if (!transports.includes("ktls")) return;
  try {
    kernelTlsStatistics();
  } catch (error) {
    if (!(error instanceof TlsError)) throw error;
    log.warning(`this process seals ktls data itself: ${error.message}`, { remedy: error.remedy });
  }
}

/** Most wanted first. */
export function transportsOf(choice: TransportChoice): Transport[] {
  return choice === "any" ? ["rdma", "ktls"] : [choice];
}
