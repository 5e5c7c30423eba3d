/** What `--policy` takes. */
export const policyExample = `rules:
  - name: backup hosts # shown in the log
    match:
      uri: spiffe://example.org/backup/* # * within a segment, ** for all that follow
    allow:
      services: [messages, files]
      access: write # to put and WRITE; read: to get and READ (default)
      root: backup # below --root
      sessions: 4 # at once, of one identity
      registered-memory: 8MiB # at once, in one session; put and get take 2MiB
      without-rdma: ktls # what carries data where the server has no RDMA device; rdma by default
  - match: { organization: Example, organizational-unit: [admin, operations] }
    allow: { services: [messages, memory, files], access: [read, write] }
  - match: { anonymous: true } # who shows no certificate
    allow: { services: messages }
`;

/** The part of the help on it. */
export const policyHelp = `
Policy: rules are tried in order and the first that matches decides; who matches none is refused.

${policyExample.replace(/^(?=.)/gm, "  ")}
A rule matches on subject ("CN=node-*,OU=storage,*"), common-name, organization,
organizational-unit, dns, uri, email and fingerprint (SHA-256) of the client's certificate. Each
is a pattern or a list of them; all that are named must hold.
`;
