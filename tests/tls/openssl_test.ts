import { testBackend } from "./backend_tests.ts";

testBackend("openssl");
