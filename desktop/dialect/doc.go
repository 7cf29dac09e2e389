// Package dialect translates between the words in which models ask for something to be done on a
// desktop and bureau's own: the action objects of Anthropic's computer tool, of OpenAI's computer
// tool and of Gemini's computer use become Steps over desktop.Action, and what came of them becomes
// the tool result that the same vendor expects.
//
// It is a pure translation. It knows no HTTP, no X11 and no desktop that runs: a caller decodes,
// does the steps, and has the answers built. Everything is checked before a caller can do the first
// step, except the names of keys, which only the guest's keyboard layout decides.
//
// # Whose action is it
//
// Decode takes an array of objects, or one object, and the name of a dialect, or Auto. An object is
//
//   - Anthropic's if it has the member "action" and not "type", if its "type" is "tool_use", or if it
//     has "name" and "input". In a tool_use block, the action is in the input's "action" (the tools
//     computer_20241022, computer_20250124 and computer_20251124), or it is the block's "name" when
//     there is a "toolset_name" (computer_toolset_20260801). An input with "actions" is a batch.
//   - OpenAI's if its "type" is "computer_call", "double_click" or "keypress", or if another "type" of
//     those that both have comes with "keys", "scroll_x", "scroll_y" or the button "wheel", or is a
//     "wait" without "ms".
//   - Gemini's if it has "name", with "args", "arguments" or the arguments beside it, if its "type"
//     is "function_call", or if it has "functionCall" or "function_call" (a part of its content).
//   - bureau's own if it has any other "type".
//
// What both bureau and OpenAI would say in the same words, such as {"type":"click","x":1,"y":2},
// means the same to both; it goes with the rest of its request, and counts as bureau's when nothing
// there decides. A client that wants OpenAI's form of answer in any case names the dialect. Actions
// of two dialects in one request are refused, for their coordinates mean different things.
//
// The versions of a vendor's vocabulary differ in what they can say and not in what it means, so each
// dialect is the union of its versions. An action is read strictly: an unknown member is an error,
// because leaving it out would do something else than was asked. Members that are null count as
// absent. What surrounds an action (ids, signatures, status) is read leniently.
//
// # Coordinates
//
// A Mapping takes the pixels of the display that was announced to the model to real ones. Gemini's
// are on its own grid of 1000 by 1000 instead, whatever was announced.
//
// # Decisions where the vendors leave room
//
//   - Scrolling. OpenAI's scroll_x and scroll_y are pixels (its SDK says "distance"); 100 pixels are one
//     notch of the wheel, rounded, and at least one. Gemini's magnitude is in thousandths of the
//     display (its height, or its width when the direction is sideways), magnitude_in_pixels is
//     pixels, and both become notches by the same rule. Anthropic's amount is notches.
//   - OpenAI's keys of a keypress are one combination, as its SDK says.
//   - OpenAI's wait, which has no duration, is one second.
//   - Anthropic's key takes several combinations separated by spaces, as xdotool does.
//   - Gemini's type_text_at clears the field and does not press Enter unless told otherwise. Its
//     documentation says that Enter is pressed by default, its reference implementation does not; the
//     missing Enter is the one that the model can see and mend.
//   - Gemini's scroll_document presses Page Up or Page Down, or scrolls sideways by half the width.
//   - Gemini's navigate, search and open_web_browser ask for a browser, of which a desktop has
//     whichever its user prefers: they are commands to run in the guest (xdg-open and the like), and
//     go_back and go_forward are the keys that every browser knows.
package dialect
