/** Logs from a worker and then from the main thread; the worker is told how by the main thread. */
import { configureLogging, logger, type LogSettings } from "../../lib/telemetry/log.ts";

const settings: LogSettings = { level: "warning", format: "json" };
const inWorker = "postMessage" in globalThis;

function logAll(worker: boolean): void {
  logger("test").info("not heard", { worker });
  logger("test").warning("heard", { worker });
}

/** This file also runs as the worker. */
const scope = self as unknown as {
  onmessage: (event: MessageEvent<LogSettings>) => void;
  postMessage(message: string): void;
};

if (inWorker) {
  scope.onmessage = ({ data }) => {
    configureLogging(data);
    logAll(true);
    scope.postMessage("done");
  };
} else {
  configureLogging(settings);
  const worker = new Worker(import.meta.url, { type: "module" });
  worker.onmessage = () => {
    logAll(false);
    worker.terminate();
  };
  worker.postMessage(settings);
}
