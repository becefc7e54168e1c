/** Where in the runs we are: a place on a line of ticks that all runs share, which plays, follows and is sought. */

/** Milliseconds that a whole run plays at speed 1: some for each tick, within bounds. */
const TICK_MS = 110;
const SHORTEST_MS = 2500;
const LONGEST_MS = 14_000;
/** For who wants little motion, a run that goes on is shown as it is now, every so often, instead of played. */
const GLANCE_MS = 1500;
/** How long the end stays before a loop begins anew. */
const REST_MS = 1600;

/**
 * A tick is a moment at which some run changed, as its share of the run (0 is noise, 1 is text). With one run it is each of
 * its states; with two they are in step.
 */
export class Player {
  /** @param {() => void} onFrame called once a frame in which something moved */
  constructor(onFrame) {
    this._onFrame = onFrame;
    this.runs = [];
    this.speed = 1;
    this.loop = false;
    this.playing = false;
    /** The tick that is shown, with the part of the way to the next one. */
    this._place = 0;
    this._ticks = [0];
    this._counted = "";
    this._last = null;
    this._rested = 0;
    this._requested = false;
    this._calm = matchMedia("(prefers-reduced-motion: reduce)");
    this._glances = false;
    this._glanced = 0;
  }

  /** Show these runs from their beginning. @param {import("./run.js").Run[]} runs */
  show(runs, { playing = true } = {}) {
    this.runs = runs;
    this._counted = "";
    this._ticks = [0];
    this.playing = playing;
    this.seek(0);
    this._glances = this._calm.matches;
    this.wake();
  }

  /** Something is new, or will move: draw with the next frame. */
  wake() {
    if (this._requested) return;
    this._requested = true;
    requestAnimationFrame((now) => this._frame(now));
  }

  get lastTick() {
    this._count();
    return this._ticks.length - 1;
  }

  get tick() {
    return Math.min(Math.floor(this._place), this.lastTick);
  }

  get isOver() {
    return this.runs.every((run) => run.isOver);
  }

  /** Whether the newest state is shown of runs that go on. */
  get isLive() {
    return !this.isOver && this.tick >= this.lastTick;
  }

  /** The share of the run that is shown. */
  get share() {
    return this._ticks[this.tick];
  }

  /** Which state of a run is shown now. */
  indexOf(run) {
    const { recording } = run;
    if (recording === null) return 0;
    let [low, high] = [0, recording.numStates];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (recording.progress(middle) <= this.share) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  seek(tick) {
    this._place = Math.min(Math.max(tick, 0), this.lastTick);
    this._rested = 0;
    this._glances = false;
    this.wake();
  }

  /** Pause where we are, or go one way from there. */
  step(by) {
    this.playing = false;
    this.seek(this.tick + by);
  }

  /** Play, from the beginning if we are at the end; or pause. */
  toggle() {
    this.playing = !this.playing;
    this._glances = false;
    if (this.playing && this.isOver && this.tick >= this.lastTick) this._place = 0;
    this._last = null;
    this.wake();
  }

  /** To the newest state. */
  follow() {
    this.playing = true;
    this.seek(this.lastTick);
  }

  _frame(now) {
    this._requested = false;
    const elapsed = this._last === null ? 0 : Math.min(now - this._last, 250);
    this._last = now;
    if (this.playing) this._advance(elapsed);
    this._onFrame();
    if (this.playing) this.wake();
    else this._last = null;
  }

  _advance(elapsed) {
    const last = this.lastTick;
    if (this._glances) this._glance(elapsed);
    else if (this._place < last) {
      this._place = Math.min(this._place + (elapsed / this._tickMs) * this.speed, last);
      this._rested = 0;
    } else if (this.loop && this.isOver) {
      this._rested += elapsed;
      if (this._rested > REST_MS) [this._place, this._rested] = [0, 0];
    }
    if (this.isOver && this._place >= last && !this.loop) this.playing = false;
  }

  _glance(elapsed) {
    this._glanced += elapsed;
    if (!this.isOver && this._glanced < GLANCE_MS) return;
    this._glanced = 0;
    this._place = this.lastTick;
  }

  get _tickMs() {
    const expected = this.isOver ? this.lastTick : Math.max(this.lastTick, this._expected);
    return Math.min(Math.max(expected * TICK_MS, SHORTEST_MS), LONGEST_MS) / Math.max(expected, 1);
  }

  /** Ticks that a running run may come to. */
  get _expected() {
    return Math.max(...this.runs.map(({ recording }) => recording?.numSteps ?? recording?.length ?? 1), 1);
  }

  /** The ticks of what has been told, up to where all runs that go on have come. */
  _count() {
    const recordings = this.runs.map(({ recording }) => recording).filter((recording) => recording !== null);
    const counted = this.runs.map(({ recording, isOver }) => `${recording?.numStates ?? 0}${isOver}`).join();
    if (counted === this._counted) return;
    this._counted = counted;
    if (recordings.length === 1 && this.runs.length === 1) {
      const [recording] = recordings;
      // The end of a run may move its states' shares: all are counted anew then, and only the new ones otherwise.
      if (this.isOver || this._ticks.length > recording.numStates + 1) this._ticks = [0];
      while (this._ticks.length <= recording.numStates) this._ticks.push(recording.progress(this._ticks.length));
      return;
    }
    const behind = this.runs.filter((run) => !run.isOver).map((run) => shareOf(run.recording));
    const bound = Math.min(1, ...behind);
    const shares = recordings.flatMap((recording) =>
      Array.from({ length: recording.numStates + 1 }, (_, index) => recording.progress(index)),
    );
    this._ticks = [...new Set(shares.filter((share) => share <= bound))].sort((a, b) => a - b);
    if (this._ticks.length === 0) this._ticks = [0];
  }
}

function shareOf(recording) {
  return recording === null ? 0 : recording.progress(recording.numStates);
}
