#include "api/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "wire/json.h"
#include "wire/utf8.h"

static const char *type_of_status(int status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 429:
        return "rate_limit_exceeded";
    case 499:
        return "cancelled";
    default:
        return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

/* Takes away a character that was cut in its middle. */
static void trim_cut(char *text)
{
    size_t len = strlen(text), at = 0;

    while (at < len) {
        size_t step = utf8_char_len(text + at, len - at);
        if (step == 0 && len - at < 4)
            break;
        at += step > 0 ? step : 1;
    }
    text[at] = '\0';
}

enum err api_error_set(struct api_error *error, int status, const char *code, const char *param,
                       const char *format, ...)
{
    va_list args;
    struct api_error made = {.status = status, .type = type_of_status(status), .code = code};

    snprintf(made.param, sizeof made.param, "%s", param != NULL ? param : "");
    va_start(args, format);
    vsnprintf(made.message, sizeof made.message, format, args);
    va_end(args);
    trim_cut(made.param);
    trim_cut(made.message);
    *error = made;
    return ERR_INVALID;
}

enum err api_error_write(const struct api_error *error, struct buf *buf)
{
    struct json_out out;

    json_out_begin(&out, buf);
    json_out_object(&out, NULL);
    json_out_object(&out, "error");
    json_out_text(&out, "message", error->message);
    json_out_text(&out, "type", error->type);
    json_out_text(&out, "param", error->param[0] != '\0' ? error->param : NULL);
    json_out_text(&out, "code", error->code);
    json_out_object_end(&out);
    json_out_object_end(&out);
    return json_out_end(&out);
}
