import { Client } from "../lib/services/client.ts";
import type { RunningServer } from "./program.ts";
import { provider } from "./provider.ts";

/**
 * A client in this process.
 *
 * @param authority certificate to trust, PEM
 * @param options.hostname address of the server, unless the provider's
 * @param options.handshakeSeconds 10 unless told
 */
export function openClient(
  authority: string,
  { port }: RunningServer,
  options: { readonly hostname?: string; readonly handshakeSeconds?: number } = {},
): Promise<Client> {
  const { hostname = provider.address, handshakeSeconds = 10 } = options;
  return Client.open({
    server: { hostname, port },
    trust: { authorities: [authority] },
    device: provider.device,
    connect: "tls",
    cmPort: 4791,
    handshakeSeconds,
    agent: "test",
  });
}
