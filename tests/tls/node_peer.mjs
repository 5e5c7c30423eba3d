/**
 * Node's end of a TLS connection: `node node_peer.mjs client|server OPTIONS`, where OPTIONS are
 * those of node:tls as JSON. A client asks and a server answers; both say in a line of JSON whom
 * they have met. A server says first which port it has.
 */
import process from "node:process";
import tls from "node:tls";

const [side, options] = [process.argv[2], JSON.parse(process.argv[3])];
const say = (facts) => console.log(JSON.stringify(facts));

function met(socket, text) {
  say({
    text,
    alpn: socket.alpnProtocol,
    protocol: socket.getProtocol(),
    authorized: socket.authorized,
    subject: socket.getPeerCertificate().subject?.CN ?? null,
  });
}

if (side === "client") {
  const socket = tls.connect(options, () => socket.write("ping\n"));
  socket.on("error", ({ code }) => say({ error: code }));
  socket.on("data", (data) => {
    met(socket, String(data));
    socket.end();
  });
} else {
  const server = tls.createServer(options, (socket) => {
    socket.on("data", (data) => {
      met(socket, String(data));
      socket.end("pong\n");
      server.close();
    });
  });
  server.listen(0, "127.0.0.1", () => say({ port: server.address().port }));
}
