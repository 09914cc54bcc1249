const CACHE = "app-1";

self.addEventListener("fetch", (event) => {
  const { destination, method, url } = event.request;
  const { origin, pathname } = new URL(url);
  // Only files whose names change with their contents. A request of a script, such as the one for a
  // token, has no destination.
  const isStatic = origin === location.origin && pathname.startsWith("/assets/") && destination !== "";
  if (method === "GET" && isStatic) event.respondWith(fromCache(event.request));
});

async function fromCache(request) {
  const cache = await caches.open(CACHE);
  const known = await cache.match(request);
  if (known) return known;
  const answer = await fetch(request);
  const isKept = answer.ok && !answer.headers.get("cache-control")?.includes("no-store");
  if (isKept) await cache.put(request, answer.clone());
  return answer;
}

// What an earlier version has kept.
self.addEventListener("activate", (event) => event.waitUntil(dropOthers()));

async function dropOthers() {
  const names = await caches.keys();
  await Promise.all(names.filter((name) => name !== CACHE).map((name) => caches.delete(name)));
}
