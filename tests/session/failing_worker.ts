/** A data worker that answers `open`, `usage` and `stop`, and dies of everything else. */
const scope = self as unknown as {
  onmessage: (event: MessageEvent) => void;
  postMessage(message: unknown): void;
};

const USAGE = { files: { calls: 1, received: 2, sent: 3 } };

scope.onmessage = ({ data: { call, method } }) => {
  if (method === undefined) return; // the first message, which starts it
  if (method === "open" || method === "stop") scope.postMessage({ call, result: undefined });
  else if (method === "usage") scope.postMessage({ call, result: USAGE });
  else throw new Error(`died of ${method}`);
};
