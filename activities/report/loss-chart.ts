import { ticks } from './axis.js';
import { html, type Html } from './html.js';
import { count } from './numbers.js';
import type { LossPoint } from './report-data.js';

const WIDTH = 640;
const HEIGHT = 300;
const PLOT = { left: 60, right: 628, top: 14, bottom: 250 };
/** More points than pixels can tell apart are shown as means of neighbours. */
const MOST_POINTS = 240;

interface Dot extends LossPoint {
  label: string;
}

/** Training and evaluation loss over the steps as one SVG, each point with a title. Colours come from the page's style. */
export function lossChart(train: readonly LossPoint[], evaluation: readonly LossPoint[]): Html {
  const trainDots = thinned(train);
  const evalDots = evaluation.map((point): Dot => ({
    ...point,
    label: point.step === 0 ? `Untouched base: held-out loss ${point.loss.toFixed(3)}` : `Step ${count(point.step)} (epoch ${point.epoch.toFixed(2)}): held-out loss ${point.loss.toFixed(3)}`,
  }));
  const all = [...trainDots, ...evalDots];
  const losses = all.map(({ loss }) => loss);
  const lossTicks = ticks(Math.min(...losses), Math.max(...losses), 5);
  const lastStep = Math.max(1, ...all.map(({ step }) => step));
  const stepTicks = ticks(0, lastStep, 6).filter((step) => Number.isInteger(step) && step <= lastStep);

  const [low, high] = [lossTicks[0], lossTicks.at(-1)!];
  const x = (step: number) => round(PLOT.left + (step / lastStep) * (PLOT.right - PLOT.left));
  const y = (loss: number) => round(PLOT.bottom - ((loss - low) / (high - low || 1)) * (PLOT.bottom - PLOT.top));
  const line = (dots: readonly Dot[]) => dots.map(({ step, loss }) => `${x(step)},${y(loss)}`).join(' ');
  const decimals = Math.max(0, Math.min(3, Math.ceil(-Math.log10((lossTicks[1] ?? 1) - low) - 1e-9)));

  return html`<figure class="chart loss">
<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-labelledby="loss-title loss-text">
<title id="loss-title">Loss by training step</title>
<desc id="loss-text">${describe(trainDots, evalDots)}</desc>
${lossTicks.map((loss) => html`<line class="grid" x1="${PLOT.left}" x2="${PLOT.right}" y1="${y(loss)}" y2="${y(loss)}"/><text x="${PLOT.left - 8}" y="${y(loss) + 4}" text-anchor="end">${loss.toFixed(decimals)}</text>`)}
${stepTicks.map((step) => html`<line class="tick" x1="${x(step)}" x2="${x(step)}" y1="${PLOT.bottom}" y2="${PLOT.bottom + 5}"/><text x="${x(step)}" y="${PLOT.bottom + 20}" text-anchor="middle">${count(step)}</text>`)}
<line class="axis" x1="${PLOT.left}" x2="${PLOT.right}" y1="${PLOT.bottom}" y2="${PLOT.bottom}"/>
<text x="${(PLOT.left + PLOT.right) / 2}" y="${HEIGHT - 8}" text-anchor="middle">optimizer step</text>
<text class="upright" x="14" y="${(PLOT.top + PLOT.bottom) / 2}" text-anchor="middle" transform="rotate(-90 14 ${(PLOT.top + PLOT.bottom) / 2})">loss (nats per token)</text>
<polyline class="train" points="${line(trainDots)}"/>
<polyline class="eval" points="${line(evalDots)}"/>
${trainDots.map(({ step, loss, label }) => html`<g class="dot"><circle class="hit" cx="${x(step)}" cy="${y(loss)}" r="7"/><circle class="train" cx="${x(step)}" cy="${y(loss)}" r="2.5"/><title>${label}</title></g>`)}
${evalDots.map(({ step, loss, label }) => html`<g class="dot shown"><circle class="hit" cx="${x(step)}" cy="${y(loss)}" r="9"/><circle class="eval" cx="${x(step)}" cy="${y(loss)}" r="4"/><title>${label}</title></g>`)}
</svg>
<figcaption><span class="key train">training loss (nats per token), each step's own rows</span> <span class="key eval">loss on held-out rows, from the untouched base at step 0</span></figcaption>
</figure>`;
}

/** At most `MOST_POINTS` dots, each the mean of as many neighbouring points. */
function thinned(points: readonly LossPoint[]): Dot[] {
  const size = Math.ceil(points.length / MOST_POINTS) || 1;
  const dots: Dot[] = [];
  for (let start = 0; start < points.length; start += size) {
    const group = points.slice(start, start + size);
    const last = group.at(-1)!;
    const loss = group.reduce((sum, point) => sum + point.loss, 0) / group.length;
    const steps = group.length === 1 ? `Step ${count(last.step)}` : `Steps ${count(group[0].step)} to ${count(last.step)}`;
    dots.push({ ...last, loss, label: `${steps} (epoch ${last.epoch.toFixed(2)}): ${group.length === 1 ? 'training loss' : 'mean training loss'} ${loss.toFixed(3)}` });
  }
  return dots;
}

function describe(train: readonly Dot[], evaluation: readonly Dot[]): string {
  const path = (name: string, dots: readonly Dot[]) => (dots.length === 0 ? '' : `${name} from ${dots[0].loss.toFixed(3)} to ${dots.at(-1)!.loss.toFixed(3)}.`);
  return `${path('Training loss went', train)} ${path('Held-out loss went', evaluation)}`.trim();
}

const round = (value: number): number => Math.round(value * 10) / 10;
