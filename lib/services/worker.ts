/** Entry of a server's data workers. */
import { WorkerHost } from "../session/worker_host.ts";
import type { WorkerCall, WorkerReport } from "../session/worker_messages.ts";
import { configureLogging } from "../telemetry/log.ts";
import { type ServerServices, serviceDefinitions } from "./server_services.ts";

const scope = self as unknown as {
  onmessage: ((event: MessageEvent) => void) | null;
  postMessage(message: WorkerReport): void;
};

/** The first message says which services there are; all others are calls. */
scope.onmessage = ({ data }: MessageEvent<ServerServices>) => {
  configureLogging(data.log);
  const host = new WorkerHost(
    () => serviceDefinitions(data),
    (report) => scope.postMessage(report),
  );
  scope.onmessage = ({ data }: MessageEvent<WorkerCall>) => void host.take(data);
};
