import { kernelText } from "../tls/connection.ts";
import { kernelTlsRemedy } from "../tls/kernel_statistics.ts";
import type { logger } from "../telemetry/log.ts";
import type { Established } from "./session_path.ts";

/**
 * Says where the kernel does not seal and open what a session over ktls carries: it works as well,
 * but not as fast as who chose it expects.
 *
 * @param facts to add to the line
 */
export function warnOfUserSpaceTls(
  log: ReturnType<typeof logger>,
  agreed: Established,
  facts: () => Record<string, unknown> | undefined = () => ({}),
): void {
  if (agreed.transport !== "ktls" || (agreed.kernel.send && agreed.kernel.receive)) return;
  const more = facts();
  if (!more) return;
  log.warning("this process seals ktls data itself, where the kernel does not", {
    session: agreed.session,
    ...more,
    ktls: kernelText(agreed.kernel),
    remedy: kernelTlsRemedy(agreed.handshake),
  });
}
