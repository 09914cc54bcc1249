// The messages of a room, of which only a window is ever in the page: a room with ten
// thousand messages costs as much as one with two hundred.

import { avatar, day, isSameDay, linked, make, paint, time } from "./dom.js";

/** Entries added at a time when one scrolls. */
const CHUNK = 100;
/** Most entries in the page. */
const MOST = 400;
/** So near to an end, in pixels, the next chunk is fetched. */
const NEAR = 600;
/** So near to the end, in pixels, one is at the end. */
const AT_END = 60;
/** Messages of one user within this time stand together. */
const TOGETHER_MS = 5 * 60_000;

export class Log {
  #scroller;
  #list;
  #room = null;
  /** The window, as indices of the room's entries. */
  #start = 0;
  #end = 0;
  /** Whether the newest messages are followed. */
  #follows = true;
  #isDue = false;
  #hooks;

  /** `hooks`: `follows(follows)` is called when one scrolls away from the newest message or
   *  back, and `top()` when one sees the first. */
  constructor(scroller, list, hooks) {
    this.#scroller = scroller;
    this.#list = list;
    this.#hooks = hooks;
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    new ResizeObserver(() => this.#follows && this.#toEnd()).observe(scroller);
  }

  get follows() {
    return this.#follows;
  }

  show(room) {
    this.#room = room;
    this.toNewest();
  }

  /** Shows the newest messages, and follows them. */
  toNewest() {
    this.#list.replaceChildren();
    this.#end = this.#last();
    this.#start = this.#end;
    this.#prepend();
    this.#setFollows(true);
    this.#toEnd();
  }

  /** Something was added to the room: it is shown with the next frame. */
  changed() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.#update();
    });
  }

  #first() {
    return this.#room.first;
  }

  #last() {
    return this.#room.first + this.#room.entries.length;
  }

  #entry(index) {
    return this.#room.entries[index - this.#room.first];
  }

  #update() {
    if (!this.#room) return;
    const isFarBehind = this.#follows && this.#last() - this.#end > CHUNK;
    if (isFarBehind || this.#start < this.#first()) {
      this.toNewest();
    } else if (this.#follows) {
      this.#append(this.#last());
      this.#trimTop();
      this.#toEnd();
    } else {
      this.#append(Math.min(this.#last(), this.#start + MOST));
    }
    this.#reachUp();
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    const below = scrollHeight - clientHeight - scrollTop;
    if (below < NEAR && this.#end < this.#last()) {
      this.#append(Math.min(this.#last(), this.#end + CHUNK));
      this.#keepPlace(() => this.#trimTop());
    }
    // Entries since the last animation frame are not shown yet, and do not end the following.
    const isAtNewest = this.#follows || this.#end === this.#last();
    this.#setFollows(below < AT_END && isAtNewest);
    this.#reachUp();
  }

  /** Near the top, shows what is above it, and asks for what is not there. */
  #reachUp() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    const fitsIn = scrollHeight - clientHeight < AT_END;
    if (scrollTop >= NEAR || (this.#follows && !fitsIn)) return;
    if (this.#start === this.#first()) {
      this.#hooks.top();
    } else {
      this.#keepPlace(() => this.#prepend());
      this.#trimBottom();
    }
  }

  #setFollows(follows) {
    if (follows === this.#follows) return;
    this.#follows = follows;
    this.#hooks.follows(follows);
  }

  #toEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  /** What one reads stays where it is while the list changes above it. */
  #keepPlace(change) {
    const below = this.#scroller.scrollHeight - this.#scroller.scrollTop;
    change();
    this.#scroller.scrollTop = this.#scroller.scrollHeight - below;
  }

  #append(end) {
    this.#list.append(...this.#rows(this.#end, Math.max(end, this.#end)));
    this.#end = Math.max(end, this.#end);
  }

  #prepend() {
    const start = Math.max(this.#first(), this.#start - CHUNK);
    // What was the first looks different below another.
    const known = this.#list.firstElementChild;
    const seam = known ? this.#rows(this.#start, this.#start + 1) : [];
    known?.remove();
    this.#list.prepend(...this.#rows(start, this.#start), ...seam);
    this.#start = start;
  }

  #trimTop() {
    const surplus = this.#end - this.#start - MOST;
    for (let n = 0; n < surplus; n += 1) this.#list.firstElementChild.remove();
    this.#start += Math.max(0, surplus);
  }

  #trimBottom() {
    const surplus = this.#end - this.#start - MOST;
    for (let n = 0; n < surplus; n += 1) this.#list.lastElementChild.remove();
    this.#end -= Math.max(0, surplus);
  }

  #rows(start, end) {
    const rows = [];
    for (let index = start; index < end; index += 1) {
      rows.push(row(this.#entry(index), this.#entry(index - 1)));
    }
    return rows;
  }
}

/** The row of an entry; one row each, so that rows can be counted. */
function row(entry, before) {
  const isNewDay = !before || !isSameDay(before.dayAt, entry.dayAt);
  const item = entry.notice === undefined ? message(entry, before, isNewDay) : notice(entry);
  if (isNewDay) item.prepend(make("div", { class: "day" }, make("span", {}, day(entry.dayAt))));
  return item;
}

function notice({ notice: text, at }) {
  return make("li", { class: "notice" }, make("p", {}, text, " ", time(at)));
}

function message(entry, before, isNewDay) {
  const { user, message: text, at, isOwn } = entry;
  const goesOn =
    !isNewDay && before.user?.id === user.id && at - before.at < TOGETHER_MS;
  const kind = `message${isOwn ? " own" : ""}${goesOn ? " goes-on" : ""}`;
  const item = make("li", { class: kind });
  const name = paint(make("span", { class: "name" }, isOwn ? "You" : user.name), user);
  const head = make("div", { class: goesOn ? "hidden" : "head" }, name, " ", time(at));
  const text_ = make("p", { class: "text", dir: "auto" }, ...linked(text));
  item.append(make("div", { class: "line" }, avatar(user), make("div", { class: "body" }, head, text_)));
  return item;
}
