import { RateChart } from './chart.js';
import { showFaults, showFigures } from './glance.js';
import { KpiCard } from './kpis.js';
import { byId } from './element.js';
import { ProcessPage } from './processes.js';
import { followStatus } from './stream.js';
import { makeTables } from './tables.js';
import { followViews } from './views.js';

const CONNECTION = { connecting: 'Connecting', live: 'Live', disconnected: 'Disconnected, trying again' } as const;

const chart = new RateChart(byId('chart'), byId('legend'));
const showTables = makeTables();
const kpis = new KpiCard();
const processes = new ProcessPage();

function chooseColours(): void {
  const root = document.documentElement;
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const stored = localStorage.getItem('tributary-theme');
  if (stored) root.dataset['theme'] = stored;
  byId('theme').addEventListener('click', () => {
    const now = root.dataset['theme'] ?? (dark.matches ? 'dark' : 'light');
    root.dataset['theme'] = now === 'dark' ? 'light' : 'dark';
    localStorage.setItem('tributary-theme', root.dataset['theme']);
    chart.recolour();
    kpis.recolour();
  });
  dark.addEventListener('change', () => {
    chart.recolour();
    kpis.recolour();
  });
}

function chooseSpan(): void {
  const buttons = [...document.querySelectorAll<HTMLButtonElement>('[data-seconds]')];
  for (const button of buttons) {
    button.addEventListener('click', () => {
      for (const other of buttons) other.ariaPressed = String(other === button);
      chart.showSeconds(Number(button.dataset['seconds']));
    });
  }
}

function askForToken(): Promise<string> {
  const form = byId('token');
  form.hidden = false;
  return new Promise((resolve) => {
    form.addEventListener(
      'submit',
      (event) => {
        event.preventDefault();
        form.hidden = true;
        resolve((byId('token-text') as HTMLInputElement).value);
      },
      { once: true },
    );
  });
}

chooseColours();
chooseSpan();
void kpis.follow();
followViews((place) => processes.show(place));
void processes.follow();
void followStatus({
  history: (history) => chart.begin(history),
  status({ status, rates }) {
    showFaults(byId('faults'), status);
    showFigures(byId('figures'), status);
    showTables(status);
    chart.add(status.at, rates);
    document.body.dataset['ready'] = '';
  },
  connection(state) {
    const place = byId('connection');
    if (place.dataset['state'] !== state) place.textContent = CONNECTION[state];
    place.dataset['state'] = state;
    document.body.toggleAttribute('data-stale', state === 'disconnected');
  },
  token: askForToken,
});
