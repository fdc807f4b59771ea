/** What starts a service. A process, and each of its threads, has a heap of its own, and loads only what it runs. */
export async function starterOf(service: 'source' | 'sink') {
  return service === 'source' ? (await import('@tributary/source')).startSources : (await import('@tributary/sink')).startSinks;
}
