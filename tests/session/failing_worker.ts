/** A data worker that answers `open` and `stop`, and dies of everything else. */
const scope = self as unknown as {
  onmessage: (event: MessageEvent) => void;
  postMessage(message: unknown): void;
};

scope.onmessage = ({ data: { call, method } }) => {
  if (method === undefined) return; // the first message, which starts it
  if (method === "open" || method === "stop") scope.postMessage({ call, result: undefined });
  else throw new Error(`died of ${method}`);
};
