import type { Service } from "../control/messages.ts";
import { errorText, UsageError } from "../errors.ts";
import type { Policy } from "../security/policy.ts";
import { defaultLimits, type UnfinishedLimits } from "../session/limits.ts";
import type { ServiceDefinition } from "../session/service.ts";
import { WorkerPool } from "../session/worker_pool.ts";
import type { LogSettings } from "../telemetry/log.ts";
import { fileService } from "./file_service.ts";
import { Directory } from "./file_system.ts";
import { memoryService } from "./memory.ts";
import { messageService } from "./messages.ts";

/** What a server offers; plain data, as its workers are told it. */
export interface ServerServices {
  /** Directory of the file service; without it there is none. */
  readonly root: string | undefined;
  /** Bytes of the region that the memory service lends to a session. */
  readonly lentBytes: number;
  /** Unless they are the default ones. */
  readonly unfinished?: UnfinishedLimits;
  readonly log: LogSettings;
}

/** Names of the services. */
export function serviceNames({ root }: ServerServices): Service[] {
  return ["messages", "memory", ...(root === undefined ? [] : ["files" as const])];
}

/**
 * The services themselves, in a worker.
 *
 * @throws FileError when the root cannot be used
 */
export function serviceDefinitions(
  { root, lentBytes, unfinished = defaultLimits }: ServerServices,
): ServiceDefinition[] {
  return [
    messageService,
    memoryService(lentBytes),
    ...(root === undefined
      ? []
      : [fileService(new Directory(root, { confined: true }), unfinished)]),
  ];
}

/**
 * Fails early where the workers would fail for each session.
 *
 * @throws FileError when the root cannot be used, UsageError `bad_policy` when one of the policy's
 * below it cannot
 */
export function checkRoots({ root }: ServerServices, policy: Policy | undefined): void {
  if (root === undefined) return;
  // Opening a directory needs no right to search it; opening it by its own entry does.
  using directory = new Directory(`${root}/.`, { confined: true });
  for (const { name, allows } of policy?.rules ?? []) {
    if (allows.permissions.root !== undefined) {
      checkOwnRoot(directory, name, allows.permissions.root);
    }
  }
}

function checkOwnRoot(below: Directory, rule: string, root: string): void {
  try {
    new Directory(root, { confined: true, below })[Symbol.dispose]();
  } catch (error) {
    throw new UsageError(
      "bad_policy",
      `the root of the policy's rule ${JSON.stringify(rule)} cannot be used: ${errorText(error)}`,
      `Create the directory below ${below.path}, or name another`,
      { cause: error },
    );
  }
}

/** Data workers that run these services. */
export function startWorkers(services: ServerServices, count: number): WorkerPool {
  return new WorkerPool(
    new URL("./worker.ts", import.meta.url),
    count,
    services,
    services.unfinished?.unfinishedSeconds,
  );
}
