import { Client, type ClientOptions } from "../lib/services/client.ts";
import type { RunningServer, Workspace } from "./program.ts";
import { provider } from "./provider.ts";
import { tlsSettings } from "./tls_backend.ts";

/**
 * A client in this process.
 *
 * @param workspace whose authority it trusts
 * @param options.hostname address of the server, unless the provider's
 * @param options others are the client's own
 */
export async function openClient(
  workspace: Workspace,
  { port }: Pick<RunningServer, "port">,
  options: Partial<ClientOptions> & { readonly hostname?: string } = {},
): Promise<Client> {
  const { hostname = provider.address, ...others } = options;
  const authority = await Deno.readTextFile(workspace.file("certs/ca.pem"));
  return await Client.open({
    server: { hostname, port },
    trust: { authorities: [authority] },
    device: provider.device,
    connect: "tls",
    cmPort: 4791,
    settings: tlsSettings,
    handshakeSeconds: 10,
    agent: "test",
    ...others,
  });
}
