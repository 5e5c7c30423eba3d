import { Client } from "../lib/services/client.ts";
import type { Identity } from "../lib/tls/trust.ts";
import type { RunningServer, Workspace } from "./program.ts";
import { provider } from "./provider.ts";

/**
 * A client in this process.
 *
 * @param workspace whose authority it trusts
 * @param options.hostname address of the server, unless the provider's
 * @param options.handshakeSeconds 10 unless told
 * @param options.identity what it shows if it is asked for a certificate
 */
export async function openClient(
  workspace: Workspace,
  { port }: RunningServer,
  options: {
    readonly hostname?: string;
    readonly handshakeSeconds?: number;
    readonly identity?: Identity;
  } = {},
): Promise<Client> {
  const { hostname = provider.address, handshakeSeconds = 10, identity } = options;
  const authority = await Deno.readTextFile(workspace.file("certs/ca.pem"));
  return await Client.open({
    server: { hostname, port },
    trust: { authorities: [authority] },
    ...(identity ? { identity } : {}),
    device: provider.device,
    connect: "tls",
    cmPort: 4791,
    handshakeSeconds,
    agent: "test",
  });
}
