/**
 * @peculiar/x509 after what it needs before it (reflect-metadata, for tsyringe), in one module: the
 * order of two imports may get lost where modules are put together.
 */
import "reflect-metadata";
export * from "@peculiar/x509";
