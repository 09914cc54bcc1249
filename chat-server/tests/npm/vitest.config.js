// Vitest runs the example that the documentation has for it; `node --test` runs all other tests.

export default { test: { include: ["examples/vitest.js"] } };
