import { testBackend } from "./backend_tests.ts";

testBackend("deno");
