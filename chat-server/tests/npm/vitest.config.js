// Vitest runs the examples that the documentation has for it, and the applications of the documentation;
// `node --test` runs all other tests.

import vue from "@vitejs/plugin-vue";

export default { plugins: [vue()], test: { include: ["examples/vitest.js", "{examples,components}/*.test.{ts,tsx}"] } };
