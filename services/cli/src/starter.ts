/** Services that run in threads of `up`, and as processes of their own. */
export type ThreadService = 'source' | 'transform' | 'sink' | 'kpi' | 'monitor';

/** What starts a service. A process, and each of its threads, has a heap of its own, and loads only what it runs. */
export async function starterOf(service: ThreadService) {
  switch (service) {
    case 'source':
      return (await import('@tributary/source')).startSources;
    case 'transform':
      return (await import('@tributary/transform')).startTransforms;
    case 'sink':
      return (await import('@tributary/sink')).startSinks;
    case 'kpi':
      return (await import('@tributary/kpi')).startKpis;
    case 'monitor':
      return (await import('@tributary/monitor')).startMonitor;
  }
}
