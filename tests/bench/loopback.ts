/** Where the benches of the embedded provider run. */
export const LOOPBACK = "127.0.0.1";

/** The embedded provider there. */
export const EMBEDDED = `roce:${LOOPBACK}`;
