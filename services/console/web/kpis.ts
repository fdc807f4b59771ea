import uPlot from '/assets/uPlot.esm.js';
import { axisStyle, colour } from './chart.js';
import { count, duration } from './format.js';
import { type Column, LiveTable } from './table.js';
import { tokenHeaders } from './stream.js';

/** Values are asked for this often while the page is seen. */
const ASK_MS = 2_000;
/** Values older than that are late where nothing is promised. */
const LATE_MS = 30_000;
/** Newest buckets that are drawn. */
const BUCKETS_MAX = 400;

interface Target {
  readonly measure: string;
  readonly grain: string;
  readonly target: number;
}

interface Kpi {
  readonly name: string;
  readonly state: string;
  readonly reason: string | null;
  readonly owner?: string | null;
  readonly version?: string;
  readonly tables?: readonly string[];
  readonly targets?: readonly Target[];
  readonly definition?: {
    readonly kind: 'measures' | 'query';
    readonly sql?: string;
    readonly time?: { readonly grains: readonly string[]; readonly zone: string } | null;
    readonly measures?: Readonly<Record<string, { readonly unit: string | null }>>;
  };
}

interface Values {
  readonly rows: readonly { readonly bucket: string | null; readonly values: Readonly<Record<string, number | string | null>> }[];
  readonly freshness: {
    readonly lagMs: number;
    readonly completeTo: string | null;
    readonly targetMs: number | null;
    readonly withinTarget: boolean | null;
    readonly position: string;
    readonly definitionVersion: string;
  };
}

interface Revision {
  readonly grain: string;
  readonly bucket: string;
  readonly revision: number;
  readonly flagged: boolean;
  readonly position: string;
}

const REVISIONS: readonly Column<Revision>[] = [
  { label: 'Bucket', cell: (row) => ({ text: row.bucket, note: row.grain }) },
  { label: 'Revision', number: true, cell: (row) => ({ text: count(row.revision), tone: row.flagged ? 'warn' : undefined }) },
  { label: 'As it was until', cell: (row) => ({ text: row.position, form: 'code' }) },
];

const byId = <Kind extends HTMLElement>(id: string) => document.getElementById(id) as Kind;

/** The card of KPIs: one measure over time with its target, how fresh it is, what changed after it was closed, and the definition. Hidden where there is no KPI. */
export class KpiCard {
  readonly #place = byId('kpis');
  readonly #chart = byId('kpi-chart');
  readonly #choices = {
    kpi: byId<HTMLSelectElement>('kpi-name'),
    measure: byId<HTMLSelectElement>('kpi-measure'),
    grain: byId<HTMLSelectElement>('kpi-grain'),
  };
  readonly #revisions: LiveTable<Revision>;
  #kpis: readonly Kpi[] = [];
  #plot: uPlot | null = null;
  #plotted = '';
  #asking = 0;

  constructor() {
    const key = (row: Revision) => `${row.grain} ${row.bucket} ${row.revision}`;
    this.#revisions = new LiveTable(byId<HTMLTableElement>('kpi-revisions'), REVISIONS, {
      key,
      empty: 'No closed bucket has changed.',
    });
    this.#choices.kpi.addEventListener('change', () => {
      this.#offer();
      void this.#show();
    });
    for (const choice of [this.#choices.measure, this.#choices.grain]) choice.addEventListener('change', () => void this.#show());
    new ResizeObserver(() => this.#plot?.setSize({ width: this.#chart.clientWidth, height: this.#chart.clientHeight })).observe(
      this.#chart,
    );
  }

  /** Asks again and again, for ever. */
  async follow(): Promise<never> {
    for (;;) {
      if (!document.hidden) await this.#refresh().catch(() => this.#tell('The KPIs cannot be asked at the moment.', 'warn'));
      await new Promise((resolve) => setTimeout(resolve, ASK_MS));
    }
  }

  /** Draws anew with the colours that hold now. */
  recolour(): void {
    this.#plotted = '';
  }

  async #refresh(): Promise<void> {
    const kpis = await ask<readonly Kpi[]>('kpis');
    this.#place.hidden = kpis.length === 0;
    this.#place.dataset['asked'] = '';
    const names = (list: readonly Kpi[]) => list.map(({ name, version }) => `${name} ${version}`).join('\n');
    const changed = names(kpis) !== names(this.#kpis);
    this.#kpis = kpis;
    if (kpis.length === 0) return;
    if (changed) {
      fill(
        this.#choices.kpi,
        kpis.map(({ name }) => name),
      );
      this.#offer();
    }
    await this.#show();
  }

  get #kpi(): Kpi | undefined {
    return this.#kpis.find(({ name }) => name === this.#choices.kpi.value);
  }

  /** What there is to choose of the KPI that is chosen. */
  #offer(): void {
    const { measures = {}, time } = this.#kpi?.definition ?? {};
    fill(this.#choices.measure, Object.keys(measures));
    fill(this.#choices.grain, time?.grains ?? []);
  }

  async #show(): Promise<void> {
    const kpi = this.#kpi;
    if (!kpi) return;
    const { owner, version, tables = [], definition } = kpi;
    set(byId('kpi-definition'), JSON.stringify({ owner, version, tables, ...definition }, null, 2));
    if (kpi.state !== 'ready' || definition?.kind !== 'measures') {
      this.#draw([], null, '');
      return this.#tell(
        kpi.reason ?? (definition ? 'One SELECT: its values are at the HTTP interface.' : kpi.state),
        kpi.state === 'failed' ? 'bad' : 'quiet',
      );
    }
    const [measure, grain] = [this.#choices.measure.value, this.#choices.grain.value];
    const asking = ++this.#asking;
    const within = grain === '' ? '' : `&grain=${grain}`;
    const [values, { revisions }] = await Promise.all([
      ask<Values>(`kpis/${kpi.name}/values?by=none&measure=${measure}${within}`),
      ask<{ readonly revisions: readonly Revision[] }>(`kpis/${kpi.name}/revisions?${within.slice(1)}`),
    ]);
    // Another choice was made meanwhile: its answer counts.
    if (asking !== this.#asking) return;
    const target = kpi.targets?.find((one) => one.measure === measure && one.grain === grain)?.target ?? null;
    this.#draw(
      values.rows.slice(-BUCKETS_MAX).map(({ bucket, values: one }) => [bucket, one[measure] ?? null]),
      target,
      measure,
    );
    this.#revisions.show(revisions.slice(0, 10));
    const newest = values.rows.at(-1)?.values[measure] ?? null;
    const unit = definition.measures?.[measure]?.unit ?? '';
    const { lagMs, completeTo, targetMs, withinTarget, position, definitionVersion } = values.freshness;
    const told = newest === null ? 'no value yet' : `${Number(newest).toLocaleString('en')} ${unit}`.trim();
    const promised = targetMs === null ? '' : ` (${withinTarget ? 'within' : 'later than'} its target of ${duration(targetMs)})`;
    this.#tell(
      `${told}. Complete to ${completeTo ?? 'nothing yet'}, ${duration(lagMs)} ago${promised}; at ${position}; definition ${definitionVersion}.`,
      (withinTarget ?? lagMs <= LATE_MS) ? 'quiet' : 'warn',
    );
  }

  #tell(text: string, tone: string): void {
    const place = byId('kpi-fresh');
    set(place, text);
    place.dataset['tone'] = tone;
  }

  #draw(points: readonly (readonly [string | null, number | string | null])[], target: number | null, label: string): void {
    const timed = points.flatMap(([bucket, value]) =>
      bucket === null ? [] : [[Date.parse(bucket) / 1_000, value === null ? null : Number(value)] as const],
    );
    this.#chart.hidden = timed.length === 0;
    if (timed.length === 0) return;
    const plotted = `${label} ${target === null}`;
    if (this.#plotted !== plotted) {
      this.#plot?.destroy();
      this.#plot = new uPlot(this.#options(label, target !== null), [[]] as unknown as uPlot.AlignedData, this.#chart);
      this.#plotted = plotted;
    }
    const data = [
      timed.map(([at]) => at),
      timed.map(([, value]) => value),
      ...(target === null ? [] : [timed.map(() => target)]),
    ];
    this.#plot?.setData(data as uPlot.AlignedData);
  }

  #options(label: string, targeted: boolean): uPlot.Options {
    const axis = axisStyle();
    return {
      width: this.#chart.clientWidth,
      height: this.#chart.clientHeight,
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false } },
      axes: [
        { ...axis, grid: { show: false } },
        { ...axis, size: 64, values: (_plot, ticks) => ticks.map((tick) => count(tick)) },
      ],
      series: [
        {},
        { label, stroke: colour('--series-0'), width: 2, points: { show: true, size: 5 } },
        ...(targeted ? [{ label: 'target', stroke: colour('--series-1'), width: 1, dash: [6, 4], points: { show: false } }] : []),
      ],
    };
  }
}

async function ask<Answer>(path: string): Promise<Answer> {
  const response = await fetch(`/v1/${path}`, { headers: tokenHeaders() });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return (await response.json()) as Answer;
}

/** Choices by name; what is chosen stays chosen where it is still there. */
function fill(select: HTMLSelectElement, names: readonly string[]): void {
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
  select.hidden = names.length === 0;
}

function set(place: HTMLElement, text: string): void {
  if (place.textContent !== text) place.textContent = text;
}
