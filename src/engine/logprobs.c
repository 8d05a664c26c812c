#include "engine/logprobs.h"

#include <math.h>

#define LOWEST (-9999.0) /* OpenAI's way to say: never */

void logprobs_write_token(struct json_out *out, const char *token, size_t len, double logprob)
{
    json_out_text_len(out, "token", token, len);
    double rounded = round(logprob * 1e6) / 1e6;
    json_out_number(out, "logprob", rounded > LOWEST ? rounded : LOWEST);
    json_out_array(out, "bytes");
    for (size_t i = 0; i < len; i++)
        json_out_uint(out, NULL, (unsigned char)token[i]);
    json_out_array_end(out);
}
