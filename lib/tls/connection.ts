/** A host by name or address, and a TCP port. */
export interface Endpoint {
  readonly hostname: string;
  readonly port: number;
}

/** `host:port`, with IPv6 addresses in brackets. */
export function endpointText({ hostname, port }: Endpoint): string {
  return hostname.includes(":") ? `[${hostname}]:${port}` : `${hostname}:${port}`;
}
