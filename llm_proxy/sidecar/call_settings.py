"""LiteLLM's settings of calls: `router_settings`, `litellm_params`, `model_info` and `cache_params`.

Invariants: as of `proxy_settings`. Keys of a deployment that are not honoured are reported, not removed.
"""

from llm_proxy.sidecar.setting_outcomes import (
    CACHE,
    EFFECT,
    HONOURED,
    INFO,
    NEEDS_ACCOUNT,
    NEW_REQUEST,
    NOT_THE_CALLERS,
    OUR_ALERTS,
    OUR_HEALTH,
    OUR_LIMITS,
    OUR_PATHS,
    OWN_STATE,
    PARAMS,
    PASSED_ON,
    PRICES,
    REPLACED,
    ROUTER,
    STAGE,
    UNAVAILABLE,
    SettingRule,
)

CALL_SETTINGS = (
    SettingRule(ROUTER, "alerting_config", REPLACED, OUR_ALERTS),
    SettingRule(ROUTER, "assistants_config search_tools", UNAVAILABLE, OUR_PATHS),
    SettingRule(
        ROUTER, "enable_tag_filtering tag_.*", HONOURED, f"{EFFECT}::test_untagged_calls_go_to_the_default"
    ),
    SettingRule(ROUTER, ".*health_check.*", REPLACED, OUR_HEALTH),
    SettingRule(
        ROUTER,
        "plugins caching_groups",
        UNAVAILABLE,
        "refused where another model could answer",
    ),
    SettingRule(
        ROUTER, "fallback_(access|budget)_check guardrail_list debug_level client_ttl", UNAVAILABLE, OWN_STATE
    ),
    SettingRule(ROUTER, "set_verbose", HONOURED, "not seen here: of LiteLLM's log alone"),
    SettingRule(
        ROUTER,
        "fallbacks default_fallbacks max_fallbacks enable_weighted_failover",
        HONOURED,
        f"{STAGE}/test_routing.py::test_a_permanent_failure_falls_back",
    ),
    SettingRule(
        ROUTER,
        "context_window_fallbacks content_policy_fallbacks",
        HONOURED,
        f"{STAGE}/test_routing.py::test_an_overlong_prompt_uses_context_window_fallbacks",
    ),
    SettingRule(
        ROUTER,
        "num_retries max_retries retry_after",
        HONOURED,
        f"{STAGE}/test_routing.py::test_a_provider_s_error_has_three_attempts",
    ),
    SettingRule(
        ROUTER,
        "retry_policy model_group_retry_policy",
        HONOURED,
        f"{EFFECT}::test_a_group_s_retry_policy_counts",
    ),
    SettingRule(
        ROUTER,
        "timeout stream_timeout",
        HONOURED,
        "tests/flow/test_owner_timeouts.py::test_the_owner_s_timeout_ends_a_call",
    ),
    SettingRule(
        ROUTER,
        "cooldown_time disable_cooldowns allowed_fails allowed_fails_policy",
        HONOURED,
        f"{STAGE}/test_routing.py::test_another_deployment_serves_while_one_cools_down",
    ),
    SettingRule(
        ROUTER,
        "routing_strategy routing_strategy_args weights routing_groups",
        HONOURED,
        f"{STAGE}/test_load_balancing.py::test_the_cheapest_gets_the_calls",
    ),
    SettingRule(
        ROUTER,
        "model_group_alias",
        HONOURED,
        f"{STAGE}/test_response_cache.py::test_a_replay_for_an_alias_has_the_alias_as_its_model",
    ),
    SettingRule(ROUTER, "enable_pre_call_checks", HONOURED, f"{EFFECT}::test_a_prompt_goes_where_it_fits"),
    SettingRule(
        ROUTER,
        "optional_pre_call_checks redis_.* cache_kwargs",
        HONOURED,
        f"{STAGE}/test_shared_limits.py::test_calls_a_minute_are_counted_over_all_sidecars",
    ),
    SettingRule(
        ROUTER,
        "provider_budget_config",
        HONOURED,
        f"{EFFECT}::test_a_spent_budget_of_a_deployment_or_a_provider_ends_its_calls",
    ),
    SettingRule(
        ROUTER,
        "cache_responses default_litellm_params default_max_parallel_requests default_priority"
        " polling_interval"
        " deployment_affinity_ttl_seconds model_group_affinity_config fallback_on_unsupported_params"
        " ignore_invalid_deployments router_general_settings auto_router_capability_limit",
        HONOURED,
        PASSED_ON,
    ),
    SettingRule(
        PARAMS,
        "model base_url api_base api_key custom_llm_provider",
        HONOURED,
        f"{EFFECT}::test_a_provider_may_be_named_apart_from_the_model",
    ),
    SettingRule(
        PARAMS,
        "extra_headers headers organization",
        HONOURED,
        f"{EFFECT}::test_a_deployment_s_headers_and_organization_are_sent",
    ),
    SettingRule(
        PARAMS,
        "extra_body temperature top_p top_k n stop seed max_tokens max_completion_tokens"
        " presence_penalty frequency_penalty"
        " logit_bias logprobs top_logprobs parallel_tool_calls response_format reasoning_effort"
        " verbosity thinking tools"
        " tool_choice functions function_call modalities audio prediction web_search_options"
        " service_tier store"
        " safety_identifier prompt_cache_key dimensions encoding_format top_n_tokens"
        " include_server_side_tool_invocations"
        " enable_prompt_caching output_vector_size",
        HONOURED,
        f"{EFFECT}::test_a_deployment_s_fields_are_the_call_s_defaults",
    ),
    SettingRule(
        PARAMS,
        "additional_drop_params drop_params allowed_openai_params",
        HONOURED,
        f"{EFFECT}::test_a_field_is_dropped_where_the_file_says_so",
    ),
    SettingRule(
        PARAMS,
        "mock_response mock_delay mock_timeout mock_tool_calls",
        HONOURED,
        f"{EFFECT}::test_a_mock_answers_without_a_provider",
    ),
    SettingRule(PARAMS, "order", HONOURED, f"{EFFECT}::test_the_first_in_order_serves"),
    SettingRule(
        PARAMS, "weight", HONOURED, f"{STAGE}/test_load_balancing.py::test_weights_decide_the_shares"
    ),
    SettingRule(
        PARAMS,
        "rpm tpm itpm otpm max_parallel_requests",
        HONOURED,
        f"{STAGE}/test_shared_limits.py::test_tokens_a_minute_are_counted_over_all_sidecars",
    ),
    SettingRule(
        PARAMS,
        "max_budget budget_duration",
        HONOURED,
        f"{EFFECT}::test_a_spent_budget_of_a_deployment_or_a_provider_ends_its_calls",
    ),
    SettingRule(
        PARAMS,
        "timeout stream_timeout request_timeout (stream_)?timeout_by_service_tier",
        HONOURED,
        "tests/flow/test_owner_timeouts.py::test_the_owner_s_timeout_ends_a_call",
    ),
    SettingRule(
        PARAMS,
        "num_retries max_retries cooldown_time retry_policy retry_strategy",
        HONOURED,
        f"{STAGE}/test_routing.py::test_if_all_deployments_cool_down_the_error_is_immediate",
    ),
    SettingRule(
        PARAMS,
        "guardrails",
        HONOURED,
        f"{STAGE}/test_callbacks.py::test_a_guardrail_applies_to_its_group_only",
    ),
    SettingRule(
        PARAMS,
        "litellm_credential_name",
        HONOURED,
        f"{STAGE}/test_owners_files.py::test_a_credential_of_the_list_reaches_the_provider",
    ),
    SettingRule(
        PARAMS,
        "api_version azure",
        HONOURED,
        f"{STAGE}/test_passthrough.py::test_only_the_model_s_name_changes_in_a_frame",
    ),
    SettingRule(
        PARAMS,
        "base_model tiered_pricing .*_uplift_multiplier.*",
        HONOURED,
        "tests/flow/test_token_prices.py::test_a_call_costs_what_the_provider_bills",
    ),
    SettingRule(
        PARAMS,
        "default_api_key_(rpm|tpm)_limit",
        REPLACED,
        OUR_LIMITS,
        protects=True,
    ),
    SettingRule(
        PARAMS, "allowed_model_region", UNAVAILABLE, "regions of callers are unknown here", protects=True
    ),
    SettingRule(
        PARAMS,
        "configurable_clientside_auth_params provider_specific_header secret_fields client_side_timeout"
        " .*_affinity_header",
        UNAVAILABLE,
        NEW_REQUEST,
    ),
    SettingRule(
        PARAMS, "(enable_)?tag_.* tags", HONOURED, f"{EFFECT}::test_untagged_calls_go_to_the_default"
    ),
    SettingRule(
        PARAMS,
        "silent_model prompt_(id|label|variables|version|environment) fallbacks"
        " context_window_fallback_dict model_list"
        " caching_groups (auto|adaptive|complexity|quality)_router_.*",
        UNAVAILABLE,
        "refused where another model could answer",
    ),
    SettingRule(
        PARAMS,
        "(success|failure)_callback callbacks turn_off_message_logging litellm_disabled_callbacks"
        " (arize|langfuse|langsmith"
        "|dd|newrelic|posthog|humanloop|wandb|weave|signoz|gcs)_.* litellm_trusted_callback_vars",
        HONOURED,
        "not seen here: it needs the observer's service",
    ),
    SettingRule(
        PARAMS,
        "anthropic_.* aws_.* azure_.* gigachat_.* github_copilot_.* openai_.* vertex_.* watsonx_.*"
        " token_exchange_.*"
        " region_name tenant_id client_id client_secret bedrock_tags data_residency use_xai_oauth"
        " fireworks_.* realtime_protocol"
        " hf_model_name api_type",
        HONOURED,
        NEEDS_ACCOUNT,
    ),
    SettingRule(
        PARAMS,
        "vector_store_.* knowledge_bases milvus_.* valkey_.* s3_.* bucket_name search_tool_name"
        " max_file_size_mb document file"
        " query contents use_in_pass_through allm_passthrough_route acreate_.* aimg_generation"
        " amoderation arerank aresponses"
        " aspeech atranscription max_agentic_loops",
        UNAVAILABLE,
        OUR_PATHS,
    ),
    SettingRule(
        PARAMS,
        "user metadata stream_options cache_control_injection_points (initial|final)_prompt_value roles"
        " bos_token eos_token custom_prompt_dict"
        " supports_system_message ensure_alternating_roles (user|assistant)_continue_message"
        " merge_reasoning_content_in_choices ssl_verify stream_chunk_size stream_response"
        " use_chat_completions_api"
        " disable_add_transform_inline_image_block enable_json_schema_validation keepalive_seconds"
        " allow_client_keepalive_override litellm_system_prompt rust cache ttl use_client"
        " use_litellm_proxy routing_strategy",
        HONOURED,
        PASSED_ON,
    ),
    SettingRule(
        PARAMS,
        "messages input prompt stream session_id litellm_(metadata|session_id|trace_id"
        "|call_id) model_info deployment_id engine",
        UNAVAILABLE,
        NOT_THE_CALLERS,
    ),
    SettingRule(
        PARAMS,
        "a?completion aembedding async_call atext_completion attempted_targets cache_key caching client"
        " complete_response"
        " completion_call_id config fallback_depth fastest_response force_timeout id litellm_logging_obj"
        " litellm_request_debug"
        " log_client_error_tracebacks logger_fn max_fallbacks model_alias_map model_config"
        " model_file_id_mapping no-log"
        " original_function preset_cache_key proxy_server_request self shared_session text_completion"
        " user_api_key_dict verbose",
        UNAVAILABLE,
        OWN_STATE,
    ),
    SettingRule(
        INFO,
        "id",
        HONOURED,
        f"{STAGE}/test_provider_errors.py::test_a_failure_names_the_last_deployment_and_the_attempts",
    ),
    SettingRule(INFO, "max_input_tokens", HONOURED, f"{EFFECT}::test_a_prompt_goes_where_it_fits"),
    SettingRule(
        INFO,
        "max_tokens max_output_tokens mode created_at base_model litellm_provider",
        HONOURED,
        "tests/flow/test_models.py::test_admins_see_deployments_and_prices_of_a_group",
    ),
    SettingRule(
        INFO, "rpm tpm", HONOURED, f"{STAGE}/test_shared_limits.py::test_a_limit_counts_wherever_it_stands"
    ),
    SettingRule(INFO, "tier", REPLACED, "limits of a deployment belong in its `litellm_params`"),
    SettingRule(
        INFO,
        "team_id team_public_model_name member_auto_router internal_router_model discoverable"
        " access_windows blocked allow_fail_open",
        UNAVAILABLE,
        "keys and rules say who may use a model (docs/admin.md)",
        protects=True,
    ),
    SettingRule(INFO, "enable_tag_filtering", HONOURED, f"{EFFECT}::test_untagged_calls_go_to_the_default"),
    SettingRule(
        INFO,
        "supports_.* supported_.* .*reasoning_effort.* thinking_always_on bedrock_.* gemini_.*"
        " vertex_ai_audio_api audio_.*"
        " output_vector_size uses_embed_content use_openai_responses_path token_count_.*"
        " prompt_cache_min_tokens"
        " provider_specific_entry",
        HONOURED,
        "not seen here: of what LiteLLM knows of a model",
    ),
    SettingRule(
        INFO,
        "tiered_pricing off_peak_pricing .*_uplift_multiplier.* ptu_.* cost_per_ptu_.*"
        " search_free_requests web_search_billing_unit",
        HONOURED,
        "tests/flow/test_token_prices.py::test_a_call_costs_what_the_provider_bills",
    ),
    SettingRule(
        INFO,
        "comment created_by db_model deprecation_date metadata source updated_(at|by)",
        HONOURED,
        "not seen here: a remark, which changes nothing",
    ),
    SettingRule(
        PRICES,
        "(in|out)put_cost_per_token cache_.*_cost.*",
        HONOURED,
        "tests/flow/test_token_prices.py::test_a_call_costs_what_the_provider_bills",
    ),
    SettingRule(PRICES, ".*", HONOURED, "not seen here, one by one: LiteLLM prices by them"),
    SettingRule(
        CACHE,
        "type host port password url username db ttl namespace supported_call_types ssl.* redis_.*"
        " startup_nodes sentinel_.* service_name",
        HONOURED,
        f"{STAGE}/test_response_cache.py::test_the_configuration_s_own_redis_is_used_as_configured",
    ),
    SettingRule(
        CACHE,
        "mode max_messages socket_.* default_in_.*",
        HONOURED,
        f"{STAGE}/test_redis_cache.py::test_a_frozen_redis_delays_one_call_by_less_than_a_second",
    ),
    SettingRule(
        CACHE,
        "similarity_threshold semantic_cache_.* .*_semantic_cache_.* qdrant_.* disk_cache_dir s3_.*"
        " gcs_.* azure_(account|blob)_.*",
        REPLACED,
        "the response cache in Redis matches equal calls (docs/operations.md)",
    ),
    SettingRule(CACHE, "(aws_iam|azure|gcp)_.*", HONOURED, NEEDS_ACCOUNT),
    SettingRule(
        CACHE,
        "_backend cache cache_(config|factory) client_name connection_.* credential_provider"
        " decode_responses driver_info"
        " encoding(_errors)? event_dispatcher health_check_interval legacy_responses lib_.* maint_.*"
        " max_connections oss_.*"
        " protocol retry.* single_connection_client unix_socket_path",
        HONOURED,
        PASSED_ON,
    ),
)
